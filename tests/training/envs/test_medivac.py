"""Medivacs, and who cannot hit them.

What the numbers follow from (game loops, 16 a game second):
    heal       9 / 16 = 0.5625 health a loop at 0.33 energy each, range 4, biological units only
    energy     50 at first, 200 at most, 0.5625 / 16 = 0.03515625 more a loop
    by itself  an enemy one looks 6 far for the hurt, with 5 energy at least
    flight     gains 2.3125 / 256 = 37 / 4096 a loop, up to 2.75 / 16 = 704 / 4096
    radii      medivac 0.75, marine 0.375, marauder 0.5625; it heals a marine from 5.125
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.envs.battlefield import (
    ATTACK,
    EAST,
    GRAIN,
    NEVER,
    NORTH,
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
from training.envs.skirmish.options import EnemyHealers, OptionError

HEAL = ATTACK  # of a medivac: 6 + the agent that is to be healed
RATE, COST, GROWTH = 0.5625, 0.33, 0.5625 / 16
FAR, FURTHER = Placed(30, 1), Placed(30, 3)
AT_9, AT_24 = Placed(9, 16), Placed(24, 16)
SLIGHTLY = 1 / GRAIN
ENEMIES = {"zealot": [FAR], "stalker": [FURTHER]}


def medivac_and(patient: Placed, medivac: Placed = AT_9, **options: Any) -> SkirmishEnv:
    """Agent 0 is a medivac, agent 1 a marine, with nobody near them."""
    allies = {"medivac": [medivac], "marine": [patient]}
    return battle(allies, ENEMIES, **{"step_mul": 1, **options})


# --------------------------------------------------------------------- heals


def test_a_heal_to_the_decimal() -> None:
    env = medivac_and(Placed(12, 16, health=10))
    command(env, HEAL + 1, STOP)
    assert of(env, "health", 1) == 10 + RATE
    assert of(env, "energy", 0) == pytest.approx(50 + GROWTH - RATE * COST, abs=1e-4)
    command(env, HEAL + 1, STOP, loops=15)
    assert of(env, "health", 1) == 19  # 9 in a game second
    assert of(env, "energy", 0) == pytest.approx(50 + 16 * GROWTH - 9 * COST, abs=1e-4)
    assert (of(env, "x", 0), of(env, "y", 0)) == (9, 16)


def test_a_heal_goes_on_from_loop_to_loop_of_a_step() -> None:
    env = medivac_and(Placed(12, 16, health=10), step_mul=8)
    command(env, HEAL + 1, STOP)
    assert of(env, "health", 1) == 14.5


@pytest.mark.parametrize(("beyond", "healed"), [(0.0, True), (SLIGHTLY, False)])
def test_a_heal_reaches_4(beyond: float, healed: bool) -> None:
    env = medivac_and(Placed(9 + 5.125 + beyond, 16, health=10))
    command(env, HEAL + 1, STOP)
    assert (of(env, "health", 1) > 10) is healed
    assert (of(env, "x", 0) > 9) is not healed
    command(env, HEAL + 1, STOP)  # it has come closer
    assert of(env, "health", 1) > 10


def test_a_heal_ends_at_full_health() -> None:
    env = medivac_and(Placed(12, 16, health=44.25), step_mul=8)
    command(env, HEAL + 1, STOP)
    assert of(env, "health", 1) == 45
    assert of(env, "energy", 0) == pytest.approx(50 + 8 * GROWTH - 0.75 * COST, abs=1e-4)
    alter(env, 1, health=40)  # it does not begin again unless it is told to
    command(env, STOP, STOP)
    assert of(env, "health", 1) == 40


def test_the_hurt_anew_is_healed_again_only_by_a_new_order() -> None:
    env = medivac_and(Placed(12, 16, health=44.5))
    command(env, HEAL + 1, STOP)
    assert (of(env, "order", 0), of(env, "target", 0)) == (0, -1)


def test_a_heal_of_the_healthy_costs_nothing() -> None:
    env = medivac_and(Placed(12, 16), step_mul=8)
    command(env, HEAL + 1, STOP)
    assert (of(env, "health", 1), of(env, "energy", 0)) == (45, 50 + 8 * GROWTH)


def test_an_order_to_heal_the_healthy_is_refused() -> None:
    """The medivac goes on with what it did: with its way, or with another heal."""
    env = medivac_and(Placed(12, 16))
    command(env, EAST, STOP, loops=2)
    command(env, HEAL + 1, STOP, loops=2)
    assert of(env, "x", 0) == 9 + (1 + 2 + 3 + 4) * 37 / GRAIN
    assert of(env, "target", 0) == -1
    allies = {"medivac": [AT_9], "marine": [Placed(12, 16, health=10), Placed(12, 18)]}
    env = battle(allies, ENEMIES, step_mul=1)
    command(env, HEAL + 1, STOP, STOP)
    command(env, HEAL + 2, STOP, STOP, loops=3)
    assert of(env, "target", 0) == 1
    assert of(env, "health", 1) == 10 + 4 * RATE


def test_without_energy_there_is_no_heal_but_of_what_comes_in() -> None:
    env = medivac_and(Placed(12, 16, health=10))
    alter(env, 0, energy=0)
    command(env, HEAL + 1, STOP)
    first = of(env, "health", 1) - 10
    assert first == pytest.approx(GROWTH / COST, abs=SLIGHTLY)
    command(env, HEAL + 1, STOP, loops=31)
    assert of(env, "health", 1) - 10 == pytest.approx(32 * GROWTH / COST, abs=32 * SLIGHTLY)
    assert 0 <= of(env, "energy", 0) < 0.01


def test_energy_grows_to_200() -> None:
    env = medivac_and(Placed(12, 16))
    command(env, STOP, STOP, loops=32)
    assert of(env, "energy", 0) == 50 + 32 * GROWTH
    alter(env, 0, energy=199.98)
    command(env, STOP, STOP)
    assert of(env, "energy", 0) == 200
    assert of(env, "energy", 1) == 0


def test_machines_are_not_healed() -> None:
    allies = {"medivac": [Placed(9, 16), Placed(12, 16, health=10)], "marine": [Placed(9, 20)]}
    env = battle(allies, ENEMIES)
    command(env, HEAL + 1, HEAL + 1, STOP)  # each other, and itself
    assert see(env, "health")[0, :2].tolist() == [150, 10]
    assert see(env, "energy")[0, :2].tolist() == [50 + 8 * GROWTH] * 2


def test_marauders_are_healed_and_two_heal_at_once() -> None:
    allies = {
        "medivac": [Placed(9, 16), Placed(9, 20)],
        "marauder": [Placed(12, 18, health=60)],
    }
    env = battle(allies, ENEMIES)
    command(env, HEAL + 2, HEAL + 2, STOP)
    assert of(env, "health", 2) == 60 + 9


def test_two_heals_do_not_lift_over_full_health() -> None:
    allies = {"medivac": [Placed(9, 16), Placed(9, 20)], "marine": [Placed(12, 18, health=44.25)]}
    env = battle(allies, ENEMIES, step_mul=1)
    command(env, HEAL + 2, HEAL + 2, STOP)
    assert of(env, "health", 2) == 45
    spent = 2 * (50 + GROWTH) - see(env, "energy")[0, :2].sum()
    assert spent == pytest.approx(0.75 * COST, abs=1e-4)


def test_a_heal_works_on_the_way() -> None:
    # The patient walks away at 0.1406 a loop, well within the medivac's reach for a step.
    env = medivac_and(Placed(10, 16, health=10), step_mul=8)
    command(env, HEAL + 1, EAST)
    assert of(env, "health", 1) == 14.5
    assert of(env, "x", 1) == 11.125


def test_the_dead_are_not_healed() -> None:
    env = medivac_and(Placed(12, 16, health=10))
    command(env, HEAL + 1, STOP)
    alter(env, 1, health=0)
    command(env, HEAL + 1, 0, loops=3)
    assert of(env, "health", 1) == 0


# -------------------------------------------------------------------- flight


def test_a_medivac_gains_37_in_4096_a_loop() -> None:
    env = medivac_and(Placed(1, 1), Placed(3, 16))
    at = 3 * 4096
    for loop in range(1, 41):
        command(env, EAST, STOP)
        at += min(37 * loop, 704)
        assert of(env, "x", 0) * 4096 == at, loop


def test_a_medivac_that_stopped_begins_anew() -> None:
    env = medivac_and(Placed(1, 1), Placed(3, 16))
    command(env, EAST, STOP, loops=30)
    command(env, STOP, STOP)
    x = of(env, "x", 0)
    command(env, EAST, STOP)
    assert of(env, "x", 0) - x == 37 / 4096


def test_a_medivac_flies_over_what_cannot_be_walked_on_but_not_off_the_map() -> None:
    allies = {"medivac": [Placed(9, 20, (0.0, 1.0)), Placed(2, 10, (-1.0, 0.0))]}
    allies["marine"] = [Placed(12, 10)]
    enemies = {"zealot": [Placed(29, 8)], "stalker": [Placed(29, 10)]}
    env = battle(allies, enemies, terrain="band")
    command(env, NORTH, WEST, STOP, loops=20)
    assert 32 - 0.75 - 0.1719 <= of(env, "y", 0) <= 32 - 0.75  # the band ends at 25
    assert 0.75 <= of(env, "x", 1) <= 0.75 + 0.1719


def test_a_medivac_hovers_over_whom_it_likes_but_another() -> None:
    allies = {"medivac": [Placed(9, 16), Placed(10, 16)], "marine": [Placed(9, 16)]}
    env = battle(allies, ENEMIES, step_mul=1)
    command(env, STOP, STOP, STOP)
    assert (of(env, "x", 2), of(env, "y", 2)) == (9, 16)
    # 1.5 - 0.0615 apart, from half each.
    beside = (1.5 - 252 / 4096) / 2
    assert see(env, "x")[0, :2] == pytest.approx([9.5 - beside, 9.5 + beside], abs=SLIGHTLY)
    put(env, 2, Placed(11.5, 16))
    put(env, 1, FAR)
    put(env, 0, Placed(9, 16))
    command(env, EAST, STOP, STOP, loops=30)
    assert of(env, "x", 0) > 12.5
    assert of(env, "y", 0) == 16  # straight over the marine


# ----------------------------------------------------------- the enemy's own


def enemy_medivac(
    does: EnemyHealers,
    health: float = 45,
    at: Placed = AT_24,
    energy: float = 50,
    step_mul: int = 8,
) -> SkirmishEnv:
    """Two marines that stand at x = 18 and 22, the first with this health, and a medivac that was
    sent to (10, 16). Our units are out of sight."""
    sent = at._replace(goal=(10, 16), looks=(-1.0, 0.0))
    marines = [Placed(18, 16, health=health), Placed(22, 16)]
    allies = {"zealot": [FAR], "stalker": [FURTHER]}
    env = battle(
        allies, {"medivac": [sent], "marine": marines}, enemy_healers=does, step_mul=step_mul
    )
    alter(env, 2, energy=energy)
    return env


@pytest.mark.parametrize(("does", "x"), [("follow", 20), ("scan_move", 10), ("stay", 24)])
def test_where_an_enemy_medivac_goes(does: EnemyHealers, x: float) -> None:
    env = enemy_medivac(does)
    command(env, STOP, STOP, loops=16)
    assert of(env, "x", 2) == pytest.approx(x, abs=SLIGHTLY)
    assert of(env, "y", 2) == 16
    alter(env, 3, y=20, goal_y=20)
    command(env, STOP, STOP, loops=4)
    assert of(env, "y", 2) == pytest.approx(18 if does == "follow" else 16, abs=0.01)


@pytest.mark.parametrize("does", ["follow", "scan_move", "stay"])
def test_an_enemy_medivac_heals_whom_it_finds_hurt(does: EnemyHealers) -> None:
    # 6 + 0.75 + 0.375 = 7.125 is how far it looks: 18 is 6 from 24. It has to come closer.
    env = enemy_medivac(does, health=20)
    command(env, STOP, STOP, loops=2)
    assert of(env, "x", 2) < 24
    command(env, STOP, STOP, loops=8)
    assert of(env, "health", 3) == 45
    assert of(env, "energy", 2) == pytest.approx(50 + 80 * GROWTH - 25 * COST, abs=1e-3)


@pytest.mark.parametrize(("distance", "finds"), [(7.125, True), (7.125 + SLIGHTLY, False)])
def test_an_enemy_medivac_looks_6_far(distance: float, finds: bool) -> None:
    env = enemy_medivac("stay", health=20, at=Placed(18, 16 + distance, (0.0, -1.0)), step_mul=1)
    command(env, STOP, STOP)
    assert (of(env, "target", 2) == 3) is finds


def test_an_enemy_medivac_wants_5_energy_to_begin() -> None:
    # 4.9 and three loops' growth of 0.035 are 5.005.
    env = enemy_medivac("stay", health=20, at=Placed(21, 18), energy=4.9, step_mul=1)
    command(env, STOP, STOP, loops=2)
    assert of(env, "health", 3) == 20
    command(env, STOP, STOP)
    assert of(env, "health", 3) == 20 + RATE
    command(env, STOP, STOP)  # and goes on below
    assert of(env, "energy", 2) < 5
    assert of(env, "health", 3) == 20 + 2 * RATE


def test_the_lowest_share_of_health_comes_first_and_then_the_nearest() -> None:
    enemies = {
        "medivac": [Placed(20, 16)],
        "marine": [Placed(21, 16, health=30), Placed(17, 16, health=22.5)],
        "marauder": [Placed(20, 19, health=62.5)],
    }
    allies = {"zealot": [FAR], "stalker": [FURTHER], "colossus": [Placed(1, 30)]}
    env = battle(allies, enemies, step_mul=1, enemy_healers="stay")
    command(env, STOP, STOP, STOP)
    # 2 / 3, 1 / 2 and 1 / 2 of their health; both are 3 away, so the first of them.
    assert of(env, "target", 3) == 5
    put(env, 6, Placed(20, 18.75, health=62.5))
    alter(env, 3, target=-1)
    command(env, STOP, STOP, STOP)
    assert of(env, "target", 3) == 6
    alter(env, 4, health=20)  # now the lowest; but it stays with its patient
    command(env, STOP, STOP, STOP, loops=4)
    assert of(env, "target", 3) == 6


def test_an_enemy_medivac_goes_on_to_the_next() -> None:
    # The second has the lower share: its 8 are 15 loops of 0.5625, and then 5 are 9 more.
    env = enemy_medivac("stay", health=40, at=Placed(20, 18))
    alter(env, 4, health=37)
    command(env, STOP, STOP)
    assert see(env, "health")[0, 3:].tolist() == [40, 37 + 8 * RATE]
    command(env, STOP, STOP)
    assert see(env, "health")[0, 4] == 45
    command(env, STOP, STOP)
    assert see(env, "health")[0, 3:].tolist() == [45, 45]


def test_a_medivac_has_hardly_set_off_when_a_battle_is_first_seen() -> None:
    spawn = SkirmishEnv("MMM", 1, enemy_healers="stay").world.x[-1].item()
    for does in ("scan_move", "follow"):
        came = spawn - see(SkirmishEnv("MMM", 32, enemy_healers=does), "x")[:, -1]
        assert set((came * 4096).round()) == {37}  # one loop's way


def test_by_default_an_enemy_medivac_moves_to_the_point_it_was_sent_to() -> None:
    assert SkirmishEnv("MMM", 1).options.enemy_healers == "scan_move"
    with pytest.raises(OptionError, match="enemy_healers must be one of follow, scan_move, stay"):
        SkirmishEnv("MMM", 1, enemy_healers="hide")


# ------------------------------------------------------------ as a target


def shooter(*allies: Placed, medivac: Placed, kind: str = "marine") -> SkirmishEnv:
    """Agent 0 is a medivac, the next are marines; against one enemy at (20, 16)."""
    ours = {"medivac": [medivac], "marine": list(allies)}
    theirs = {kind: [Placed(20, 16, (-1.0, 0.0))], "medivac": [Placed(31, 31)]}
    return battle(ours, theirs, enemy_healers="stay")


def test_an_idle_medivac_is_shot_last() -> None:
    env = shooter(Placed(15, 16), medivac=Placed(18, 16))
    command(env, STOP, STOP)
    assert see(env, "health")[0, :2].tolist() == [150, 39]


def test_an_idle_medivac_alone_is_shot() -> None:
    env = shooter(FAR, medivac=Placed(18, 16))
    command(env, STOP, STOP)
    assert of(env, "health", 0) == 150 - 5  # armor 1


def test_a_medivac_that_heals_is_a_target_as_others_are() -> None:
    env = shooter(Placed(15, 16, health=20), medivac=Placed(18, 16))
    command(env, HEAL + 1, STOP)
    assert of(env, "health", 0) == 145
    assert of(env, "health", 1) == 24.5


@pytest.mark.parametrize("kind", ["marauder", "zealot", "zergling", "spine_crawler"])
def test_who_cannot_hit_the_air_leaves_medivacs_alone(kind: str) -> None:
    theirs = {kind: [Placed(20, 16, goal=(20, 30))]}
    other = {"zealot": "stalker", "marauder": "marine"}.get(kind, "hydralisk")
    theirs[other] = [Placed(1, 1)]
    ours = {"medivac": [Placed(19.5, 16)], "marine": [FAR]}
    env = battle(ours, theirs)
    command(env, STOP, STOP, loops=4)
    assert of(env, "health", 0) == 150
    assert of(env, "target", 2) == -1
    assert (of(env, "y", 2) > 17) is (kind != "spine_crawler")  # on with its order


@pytest.mark.parametrize("kind", ["marauder", "zealot", "colossus"])
def test_an_order_to_hit_what_flies_is_refused(kind: str) -> None:
    """The unit goes on with what it did: here, walking to a point 2 east."""
    enemies = {"medivac": [Placed(9, 20)], "marine": [FAR]}
    other = "stalker" if kind != "marauder" else "marine"
    ours = {kind: [Placed(9, 16)], other: [Placed(1, 1)]}
    env = battle(ours, enemies, enemy_healers="stay")
    command(env, EAST, STOP)
    assert of(env, "x", 0) == 9 + 1.125
    command(env, ATTACK, STOP)
    assert of(env, "x", 0) == 11
    command(env, ATTACK, STOP, loops=2)
    assert (of(env, "x", 0), of(env, "y", 0)) == (11, 16)
    assert of(env, "health", 2) == 150


def test_a_refused_order_leaves_the_fight_at_hand() -> None:
    enemies = {"medivac": [Placed(9, 20)], "marauder": [Placed(12, 16, cooldown=NEVER)]}
    ours = {"marauder": [Placed(9, 16)], "marine": [Placed(1, 1)]}
    env = battle(ours, enemies, enemy_healers="stay", step_mul=1)
    command(env, ATTACK + 1, STOP)
    command(env, ATTACK, STOP, loops=40)
    # Two more at 24 - 1 to 24 + 2 loops; 20 - 1 each, less what the medivac gives back.
    assert of(env, "health", 3) < 125
    assert of(env, "target", 0) == 3
    assert of(env, "health", 2) == 150


@pytest.mark.parametrize(("edge", "flight"), [(1.25, 1), (1.25 + SLIGHTLY, 2), (5, 4), (5.75, 5)])
@pytest.mark.parametrize(
    ("kind", "lost"), [("marauder", 19), ("marine", 10), ("hydralisk", 12 - 2)]
)
def test_a_marauders_grenade(kind: str, lost: float, edge: float, flight: int) -> None:
    # 10 and 10 more to the armored; it flies 1.25 a loop from loop 1 on.
    radius = {"marauder": 0.5625, "marine": 0.375, "hydralisk": 0.625}[kind]
    target = Placed(9 + 0.5625 + radius + edge, 16, cooldown=NEVER)
    env = battle({"marauder": [Placed(9, 16)]}, {kind: [target]}, step_mul=1)
    alter(env, 1, order=0)
    before = of(env, "health", 1)
    command(env, ATTACK, loops=flight)
    assert of(env, "health", 1) == before
    command(env, ATTACK)
    assert before - of(env, "health", 1) == lost
