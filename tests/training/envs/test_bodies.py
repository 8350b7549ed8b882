"""Bodies: who makes room for whom, who is walked round, and when nobody walks at all.

What the numbers follow from: circles touch at the sum of their radii less 252 / 4096, which for
two marines is 0.375 + 0.375 - 0.0615 = 0.6885; a marine walks 2.25 / 16 = 0.140625 a loop. After
its shot a marine does not go after anybody for 12 loops, a marauder for none, and others for 8.
"""

from __future__ import annotations

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
    alter,
    battle,
    command,
    of,
    put,
    see,
)
from training.envs.skirmish.env import SkirmishEnv

TOUCH = 0.75 - 252 / GRAIN
PACE = 2.25 / 16
SLIGHTLY = 2 / GRAIN
FAR, FURTHER = Placed(30, 1), Placed(1, 30)


def marines(*allies: Placed, enemy: Placed = FAR) -> SkirmishEnv:
    """These marines against one, a game loop at a time."""
    return battle({"marine": list(allies)}, {"marine": [enemy]}, step_mul=1)


# ------------------------------------------------------------ making room


@pytest.mark.parametrize(
    ("kind", "touch"),
    # By radii, which for zealots (0.5) and hydralisks (0.625) are not those that separate them.
    [("marine", 0.6885), ("zealot", 0.9385), ("hydralisk", 1.1885), ("marauder", 1.0635)],
)
def test_idle_friends_share_the_way_to_where_they_touch(kind: str, touch: float) -> None:
    env = battle({kind: [Placed(9, 16), Placed(9.5, 16)]}, {"baneling": [FAR]}, step_mul=1)
    command(env, STOP, STOP, loops=3)
    beside = touch / 2
    assert see(env, "x")[0, :2] == pytest.approx([9.25 - beside, 9.25 + beside], abs=SLIGHTLY)
    assert see(env, "y")[0, :2].tolist() == [16, 16]


@pytest.mark.parametrize("apart", [TOUCH, TOUCH + SLIGHTLY])
def test_who_touches_stays_where_it_is(apart: float) -> None:
    env = marines(Placed(9, 16), Placed(9 + apart, 16))
    before = see(env, "x").copy()
    command(env, STOP, STOP, loops=8)
    assert see(env, "x")[0, :2] == pytest.approx(before[0, :2], abs=1 / GRAIN)


def test_who_fights_is_not_pushed() -> None:
    env = marines(Placed(9, 16), Placed(9.5, 16), enemy=Placed(9, 19, cooldown=NEVER))
    command(env, ATTACK, STOP)
    assert see(env, "x")[0, :2] == pytest.approx([9, 9 + TOUCH], abs=SLIGHTLY)
    assert of(env, "x", 0) == 9


def test_two_who_fight_share_the_way() -> None:
    env = marines(Placed(9, 16), Placed(9.5, 16), enemy=Placed(9, 19, cooldown=NEVER))
    command(env, ATTACK, ATTACK)
    beside = TOUCH / 2
    assert see(env, "x")[0, :2] == pytest.approx([9.25 - beside, 9.25 + beside], abs=SLIGHTLY)


def test_an_idle_friend_gives_way_wholly_to_who_walks_into_it() -> None:
    env = marines(Placed(9, 16), Placed(9.75, 16))
    for loop in range(1, 9):
        command(env, EAST, STOP)
        # Nothing is in the walker's way, and the other is at its side from loop 1 on.
        x = 9 + loop * PACE
        assert see(env, "x")[0, :2] == pytest.approx([x, x + TOUCH], abs=loop / GRAIN)
        assert of(env, "x", 0) == x
    assert see(env, "y")[0, :2].tolist() == [16, 16]  # it was not walked round


def test_a_walker_pushes_a_row_of_idle_friends() -> None:
    env = marines(Placed(9, 16), *(Placed(9.75 + 0.75 * i, 16) for i in range(3)))
    command(env, EAST, STOP, STOP, STOP, loops=14)
    x = see(env, "x")[0, :4]
    assert x[0] == 9 + 14 * PACE
    assert (np.diff(x) > 0.25).all()  # a push takes its loops through the row, which closes up
    assert x[3] > 11.25 + 0.5
    assert set(see(env, "y")[0, :4].tolist()) == {16}


def test_an_idle_unit_does_not_give_way_to_an_enemy() -> None:
    # The enemy is after somebody else, in the far east. First it lies in ours, and has to make
    # room by itself; then it walks round it.
    hunter = Placed(9.4, 16, target=1, cooldown=NEVER)
    env = marines(Placed(9.75, 16), Placed(29, 16), enemy=hunter)
    command(env, STOP, STOP)
    assert (of(env, "x", 0), of(env, "y", 0)) == (9.75, 16)
    apart = np.hypot(of(env, "x", 2) - 9.75, of(env, "y", 2) - 16)
    assert apart == pytest.approx(TOUCH, abs=2 * SLIGHTLY)
    for _ in range(40):
        command(env, STOP, STOP)
        assert (of(env, "x", 0), of(env, "y", 0)) == (9.75, 16)
        apart = np.hypot(of(env, "x", 2) - 9.75, of(env, "y", 2) - 16)
        assert apart >= TOUCH - 2 * SLIGHTLY
    assert of(env, "x", 2) > 12


def test_friends_who_walk_into_each_other_share_the_way() -> None:
    env = marines(Placed(9, 16), Placed(10, 16))
    command(env, EAST, WEST)
    assert see(env, "x")[0, :2].tolist() == [9 + PACE, 10 - PACE]  # 0.71875 apart
    for _ in range(4):  # neither gets ahead
        command(env, EAST, WEST)
        half = TOUCH / 2
        assert see(env, "x")[0, :2] == pytest.approx([9.5 - half, 9.5 + half], abs=SLIGHTLY)


# ------------------------------------------------------------- walking round


def passed(env: SkirmishEnv, other: int) -> float:
    """How far aside agent 0 got on 24 loops' way east past the other, which it never enters."""
    aside = 0.0
    for _ in range(3):
        goal = of(env, "x", 0) + 2
        for _ in range(8):
            alter(env, 0, order=1, target=-1, goal_x=goal, goal_y=16)
            env.put(env._tick(env.world, env.tables, env._slots.keys, env._slots.steps))
            x, y = (see(env, what)[0] for what in "xy")
            assert np.hypot(x[0] - x[other], y[0] - y[other]) >= TOUCH - 0.05
            aside = max(aside, abs(y[0] - 16))
    return aside


def test_friends_who_fight_are_walked_round() -> None:
    fighter, target = Placed(10.5, 16), Placed(10.5, 20, cooldown=NEVER)
    env = marines(Placed(9, 16), fighter, enemy=target)
    command(env, STOP, ATTACK)
    assert passed(env, 1) > TOUCH - 0.1
    assert (of(env, "x", 1), of(env, "y", 1)) == (10.5, 16)
    assert of(env, "x", 0) > 11.25


def test_idle_friends_are_not() -> None:
    env = marines(Placed(9, 16), Placed(10.5, 16))
    assert passed(env, 1) == 0
    assert of(env, "x", 0) == 9 + 24 * PACE


def test_enemies_are_walked_round_whatever_they_do() -> None:
    for target in (-1, 0):  # it stands idle, not having looked round yet, or fights
        enemy = Placed(10.5, 16, cooldown=NEVER, target=target)
        env = marines(Placed(9, 16), enemy=enemy)
        assert passed(env, 1) > TOUCH - 0.1
        assert (of(env, "x", 1), of(env, "y", 1)) == (10.5, 16)
        assert of(env, "x", 0) > 11.25


# ----------------------------------------------------------- after a blow


def shot_then_flees(kind: str, loops: int) -> SkirmishEnv:
    """A unit has struck in this loop, and its target gets away to 9 further east."""
    env = battle({kind: [Placed(9, 16)]}, {"spine_crawler": [Placed(10.45, 16)]}, step_mul=1)
    alter(env, 1, order=0, cooldown=NEVER)
    command(env, ATTACK, loops=loops)
    put(env, 1, Placed(19.5, 16, cooldown=NEVER))
    assert of(env, "x", 0) == 9
    return env


@pytest.mark.parametrize(
    ("kind", "strikes", "stands"),
    # The loop of the damage point, which is itself the first one in which it stands.
    [("marine", 2, 12), ("stalker", 4, 8), ("zealot", 1, 8), ("hydralisk", 4, 8)],
)
def test_who_has_struck_does_not_walk_after_its_target(
    kind: str, strikes: int, stands: int
) -> None:
    env = shot_then_flees(kind, strikes)
    command(env, ATTACK, loops=stands - 1)
    assert of(env, "x", 0) == 9
    command(env, ATTACK)
    assert of(env, "x", 0) > 9.1


def test_a_marauder_walks_on_at_once() -> None:
    env = shot_then_flees("marauder", 1)
    command(env, ATTACK)
    assert of(env, "x", 0) == 9 + PACE


@pytest.mark.parametrize(("kind", "strikes"), [("marine", 2), ("stalker", 4), ("zealot", 1)])
def test_an_order_to_move_is_obeyed_at_once(kind: str, strikes: int) -> None:
    env = shot_then_flees(kind, strikes)
    command(env, WEST)
    assert of(env, "x", 0) < 8.9


def test_a_swing_that_is_aborted_costs_no_time() -> None:
    env = battle({"stalker": [Placed(9, 16)]}, {"marine": [Placed(12, 16)]}, step_mul=1)
    command(env, ATTACK, loops=2)
    put(env, 1, Placed(25, 16))
    command(env, ATTACK)
    assert of(env, "x", 0) > 9.1


def test_who_has_killed_goes_on_with_its_attack_move_after_as_long() -> None:
    hunter = Placed(12, 16, (-1.0, 0.0), goal=(12, 26), target=0)
    env = marines(Placed(9, 16, health=1), Placed(30, 30), enemy=hunter)
    command(env, STOP, STOP, loops=2)
    assert of(env, "health", 0) == 0
    command(env, 0, STOP, loops=11)
    assert (of(env, "x", 2), of(env, "y", 2)) == (12, 16)
    command(env, 0, STOP)
    assert of(env, "y", 2) == 16 + PACE
