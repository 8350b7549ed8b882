"""The enemy: it walks its attack-move, takes targets, keeps and drops them. And SMAC's heuristic.

Scan distances are edge to edge, max(weapon range + 0.5, 5); so from centre to centre
    marine at marine    5.5 + 0.375 + 0.375 = 6.25    its weapon reaches 5.75
    zealot at marine    5 + 0.5 + 0.375 = 5.875       its weapon reaches 0.975
    zealot at stalker   5 + 0.5 + 0.625 = 6.125
    stalker at marine   6.5 + 0.625 + 0.375 = 7.5     its weapon reaches 7
and a stalker's weapon reaches a zealot at 6 + 0.625 + 0.5 = 7.125.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.training.envs.battlefield import (
    ATTACK,
    EAST,
    GRAIN,
    NEVER,
    STOP,
    WEST,
    Placed,
    act,
    alter,
    battle,
    command,
    of,
    put,
    see,
)
from training.envs.skirmish.env import SkirmishEnv

FAR = Placed(30, 1)
SLIGHTLY = 1 / GRAIN


def test_with_nobody_in_sight_enemies_walk_where_they_were_sent() -> None:
    walker = Placed(23, 16, goal=(14, 16))
    env = battle({"marine": [Placed(2, 28)]}, {"marine": [walker]})
    for step in range(1, 8):
        act(env, STOP)
        assert (of(env, "x", 1), of(env, "y", 1)) == (23 - 1.125 * step, 16)
    for _ in range(2):
        act(env, STOP)
    assert (of(env, "x", 1), of(env, "y", 1)) == (14, 16)  # there, and idle


def test_enemies_come_from_their_spawn_to_the_agents() -> None:
    env = SkirmishEnv("3m", 2, seed=1)
    began = see(env, "x")[:, 3:]
    assert began.min() > 20  # they spawn around (23, 16)
    for _ in range(4):
        act(env, STOP, STOP, STOP)
    came = began - see(env, "x")[:, 3:]
    # Nobody is within scan range before x = 9.7 + 6.25: they just walk, 1.125 a step. One may push
    # another that stood in its way; their mean is not moved by that.
    assert came.mean(1) == pytest.approx(np.full(2, 4.5), abs=0.01)
    assert np.abs(came - 4.5).max() < 0.375


# Edge to edge half a unit more than the weapon's range, but at least 5.
@pytest.mark.parametrize(
    ("kind", "scan"),
    [("marine", 5.5 + 0.75), ("stalker", 6.5 + 1.0), ("zealot", 5 + 0.875)],
    ids=["marine", "stalker", "zealot"],
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_target_is_taken_at_the_edge_of_scan_range(kind: str, scan: float, inside: bool) -> None:
    agent = Placed(10 + scan + (-SLIGHTLY if inside else SLIGHTLY), 16)
    env = battle({"marine": [agent]}, {kind: [Placed(10, 16, cooldown=NEVER)]}, n_envs=16)
    act(env, STOP)  # eight loops: each enemy looks round once, and then chases
    assert ((see(env, "x")[:, 1] > 10) == inside).all()


def test_units_look_round_every_eight_loops_one_after_the_other() -> None:
    enemies = [Placed(10, 16, cooldown=NEVER), Placed(10, 18, cooldown=NEVER)]
    env = battle({"marine": [Placed(16.1, 17)]}, {"marine": enemies}, n_envs=64, step_mul=1)
    looked = np.zeros((64, 2), dtype=int)
    for loop in range(1, 9):
        act(env, STOP)
        looked = np.where((looked == 0) & (see(env, "x")[:, 1:] > 10), loop, looked)
    assert set(looked[:, 0]) == set(range(1, 9))  # at its own turn in every battle
    assert set(looked[:, 1] - looked[:, 0]) == {1, -7}  # and the next unit in the next loop


def test_of_several_in_scan_range_the_closest_is_taken() -> None:
    agents = [Placed(13, 16), Placed(10, 13.5), Placed(10, 19)]
    env = battle({"marine": agents}, {"marine": [Placed(10, 16)]}, step_mul=1)
    for _ in range(12):  # it looks in loop 8 at the latest, and fires once
        act(env, STOP, STOP, STOP)
    assert see(env, "health")[0, :3].tolist() == [45, 39, 45]


def test_a_target_in_weapon_range_is_kept_though_others_come_closer() -> None:
    env = battle({"marine": [Placed(14.5, 16), FAR]}, {"marine": [Placed(10, 16)]})
    act(env, STOP, STOP)
    assert see(env, "health")[0, :2].tolist() == [39, 45]
    put(env, 1, Placed(11, 16))
    for _ in range(4):  # at least one shot in 16 loops
        act(env, STOP, STOP)
    assert of(env, "health", 0) <= 33
    assert of(env, "health", 1) == 45
    put(env, 0, FAR)  # now it is lost, and who is in range is taken
    lost = of(env, "health", 0)
    for _ in range(3):
        act(env, STOP, STOP)
    assert of(env, "health", 1) < 45
    assert of(env, "health", 0) == lost


def test_when_the_target_dies_the_next_is_taken() -> None:
    env = battle({"marine": [Placed(12, 16), Placed(14, 16)]}, {"marine": [Placed(10, 16)]})
    alter(env, 0, health=6)
    for _ in range(3):
        act(env, STOP if of(env, "health", 0) > 0 else 0, STOP)
    assert of(env, "health", 0) == 0
    assert 0 < of(env, "health", 1) < 45
    assert of(env, "x", 2) == 10  # both stood in its range


def test_whose_target_dies_looks_at_once() -> None:
    env = battle(
        {"marine": [Placed(12, 16), Placed(14, 16)]},
        {"marine": [Placed(10, 16, target=0)]},
        n_envs=16,  # whatever turn each battle's enemy has
        step_mul=1,
    )
    command(env, STOP, STOP)
    alter(env, 0, health=0)
    command(env, 0, STOP)
    assert (see(env, "target")[:, 2] == 1).all()


def test_whose_target_leaves_weapon_range_looks_at_once() -> None:
    env = battle(
        {"marine": [Placed(12, 16), Placed(14, 16)]},
        {"marine": [Placed(10, 16, target=0, cooldown=NEVER)]},
        n_envs=16,
        step_mul=1,
    )
    command(env, STOP, STOP)
    put(env, 0, Placed(10 + 5.75 + SLIGHTLY, 16))
    command(env, STOP, STOP)
    assert (see(env, "target")[:, 2] == 1).all()


def test_a_target_that_never_was_in_weapon_range_is_kept() -> None:
    """Who is still on its way to its target does not look round for another."""
    env = battle(
        {"marine": [Placed(15, 16), FAR]}, {"zealot": [Placed(10, 16, target=0)]}, n_envs=16
    )
    put(env, 1, Placed(13, 17))
    command(env, STOP, STOP)
    assert (see(env, "target")[:, 2] == 0).all()


def test_who_has_not_had_its_turn_sees_nobody() -> None:
    env = battle({"marine": [Placed(12, 16)]}, {"marine": [Placed(10, 16)]}, n_envs=64, step_mul=1)
    found = []
    for _ in range(8):
        command(env, STOP)
        found.append((see(env, "target")[:, 1] == 0).sum())
    assert found[0] < 20  # one in eight
    assert np.diff(found).min() > 0
    assert found[-1] == 64


def test_who_is_hit_knows_by_whom_at_once() -> None:
    # A missile is on its way and lands in loop 1, from 6.8 away: further than a zealot looks.
    env = battle(
        {"stalker": [Placed(9.2, 16)]}, {"zealot": [Placed(16, 16)]}, n_envs=16, step_mul=1
    )
    alter(env, 0, pending=1, pending_target=1)
    command(env, STOP)
    assert (see(env, "shield")[:, 1] == 40).all()
    assert (see(env, "target")[:, 1] == 0).all()


def test_an_enemy_turns_on_who_hits_it_from_beyond_its_scan_range() -> None:
    """A stalker 6.8 away: out of the zealots' sight of 6.125, they in its range of 7.125.

    Its friends within 4 come along. The heuristic shoots without regard for SMAC's mask of 6.
    """
    hit = Placed(16, 10, goal=(16, 30), cooldown=NEVER)
    near = Placed(19.875, 10, goal=(19.875, 30), cooldown=NEVER)
    apart = Placed(16, 5.875, goal=(16, 26), cooldown=NEVER)
    zealots = {"zealot": [hit, near, apart]}
    env = battle({"stalker": [Placed(9.375, 12)]}, zealots, heuristic_ai=True)
    # The missile lands after 9 loops; until then all go straight north.
    act(env, ATTACK)
    assert see(env, "x")[0, 1:].tolist() == [16, 19.875, 16]
    assert of(env, "shield", 1) == 50
    act(env, ATTACK)
    assert of(env, "shield", 1) == 40
    x = see(env, "x")[0, 1:]
    assert x[0] < 16 - 0.5  # it comes
    assert x[1] < 19.875 - 0.5  # so does its friend at 3.875
    assert x[2] == 16  # its friend at 4.125 walks on


def test_who_was_ordered_nothing_turns_on_who_hits_it_too() -> None:
    hit = Placed(16, 10, cooldown=NEVER)
    env = battle({"stalker": [Placed(9.375, 12)]}, {"zealot": [hit]}, heuristic_ai=True)
    alter(env, 1, order=0)
    for _ in range(2):
        act(env, ATTACK)
    assert of(env, "x", 1) < 16 - 0.5


def test_who_has_arrived_keeps_its_bearings() -> None:
    """A goal between the points of the positions' grid cannot be reached, and need not be."""
    env = battle({"marine": [FAR]}, {"marine": [Placed(10, 16)]})
    alter(env, 1, goal_x=10 + 0.49 / GRAIN)
    for _ in range(3):
        act(env, STOP)
    assert np.hypot(of(env, "face_x", 1), of(env, "face_y", 1)) == pytest.approx(1)
    put(env, 0, Placed(7, 16))
    act(env, STOP)
    assert of(env, "health", 0) == 39


def test_a_medivac_among_them_does_not_make_enemies_see_further() -> None:
    enemies = {"marine": [Placed(10, 16)], "medivac": [Placed(12, 20)]}
    env = battle({"marine": [Placed(16.3, 16)], "marauder": [FAR]}, enemies)
    for _ in range(3):
        act(env, STOP, STOP)
    assert of(env, "x", 2) == 10
    assert of(env, "health", 0) == 45


def test_the_heuristic_attacks_the_nearest_anywhere_until_it_dies() -> None:
    enemies = [Placed(20, 16, cooldown=NEVER), Placed(26, 16, cooldown=NEVER)]
    env = battle({"marine": [Placed(3, 16)]}, {"marine": enemies}, heuristic_ai=True)
    act(env, STOP)
    assert of(env, "x", 0) == 3 + 1.125  # 17 away, and yet it goes there
    put(env, 2, Placed(4.125, 26, cooldown=NEVER))
    act(env, STOP)
    assert (of(env, "x", 0), of(env, "y", 0)) == (3 + 2 * 1.125, 16)  # though another is nearer
    alter(env, 1, health=0)
    act(env, STOP)
    assert of(env, "y", 0) > 16.7  # toward the other; half the circle of turning costs a loop
    put(env, 2, Placed(9, 16, cooldown=NEVER))
    act(env, STOP)
    act(env, STOP)
    assert of(env, "health", 2) < 45


def test_the_heuristics_last_actions_are_the_callers() -> None:
    env = battle({"marine": [Placed(3, 16)]}, {"marine": [Placed(20, 16)]}, heuristic_ai=True)
    state = act(env, WEST).observation.state[0]
    assert state[-7:].tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert of(env, "x", 0) > 3


@pytest.mark.parametrize(
    ("at", "way"),
    [
        ((15, 7), (1, 0)),
        ((-15, 7), (-1, 0)),
        ((7, 9), (0, 1)),
        ((7, -9), (0, -1)),
        ((8, 8), (0, 1)),  # neither is larger: north or south
        ((-8, -8), (0, -1)),
    ],
)
def test_the_resting_heuristic_steps_along_the_longer_axis(
    at: tuple[int, int], way: tuple[int, int]
) -> None:
    enemy = Placed(16 + at[0], 16 + at[1], cooldown=NEVER)
    agent = Placed(16, 16)
    options: dict[str, Any] = {"heuristic_ai": True, "heuristic_rest": True}
    env = battle({"marine": [agent]}, {"marine": [enemy]}, **options)
    act(env, STOP)
    assert (of(env, "x", 0) - 16, of(env, "y", 0) - 16) == (1.125 * way[0], 1.125 * way[1])


def test_the_resting_heuristic_attacks_what_is_available() -> None:
    options: dict[str, Any] = {"heuristic_ai": True, "heuristic_rest": True}
    enemy = Placed(21, 16, cooldown=NEVER)
    env = battle({"marine": [Placed(16, 16)]}, {"marine": [enemy]}, **options)
    act(env, EAST)
    assert of(env, "health", 1) == 39
    assert of(env, "x", 0) == 16
