"""Zerglings, hydralisks and spine crawlers worked out on paper; banelings have their own file.

What the numbers follow from (game loops, 16 a game second):
    zergling  5 damage, range 0.1, period 11.136, damage point 3 loops
    hydralisk 12, range 5, period 13.28, damage point 3; missile 2.5 a loop, at once within 0.5
    spine     25 (30 to armored), range 7, period 25.6, damage point 5, and 5 more until it hits;
              armor 2, does not move
    all zerg  regenerate 0.2734 a second: 70 / 4096 a loop
    radii     zergling 0.375, zealot 0.5, hydralisk and stalker 0.625, spine 0.875
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from tests.training.envs.battlefield import (
    ATTACK,
    EAST,
    GRAIN,
    NEVER,
    NORTH,
    STOP,
    Placed,
    alter,
    battle,
    command,
    of,
    put,
    see,
)
from training.envs.skirmish.env import SkirmishEnv

FAR = Placed(30, 30)
REGENERATION = 70 / 4096
SLIGHTLY = 1 / GRAIN
TOUCH = 0.875 + 0.625 - 252 / GRAIN  # of a stalker and a spine crawler


def blows(
    env: SkirmishEnv, target: int, loops: int, *actions: int
) -> list[list[tuple[int, float]]]:
    """By battle: (loop from 1, what the target lost of health and shield), where it lost any."""
    found: list[list[tuple[int, float]]] = [[] for _ in range(env.n_envs)]
    before = (see(env, "health") + see(env, "shield"))[:, target]
    for loop in range(1, loops + 1):
        command(env, *actions)
        now = (see(env, "health") + see(env, "shield"))[:, target]
        for slot in (now < before).nonzero()[0]:
            found[slot].append((loop, float(before[slot] - now[slot])))
        before = now
    return found


def periods(times: list[list[tuple[int, float]]]) -> set[int]:
    return {b - a for one in times for (a, _), (b, _) in pairwise(one)}


# ----------------------------------------------------------------- zergling


def test_a_zergling_bites_for_5_less_armor_every_10_to_14_loops() -> None:
    # 11.136 - 1 to 11.136 + 2, in whole loops, less what was left of the loop in which the one
    # before began; the first bite at 1 + 3.
    target = Placed(9.96875, 16, shield=0, shield_wait=NEVER, cooldown=NEVER)
    env = battle({"zergling": [Placed(9, 16)]}, {"zealot": [target]}, n_envs=32, step_mul=1)
    found = blows(env, 1, 60, ATTACK)
    assert {one[0] for one in found} == {(4, 4.0)}
    assert {loss for one in found for _, loss in one} == {4.0}
    assert periods(found) == {10, 11, 12, 13, 14}


def test_a_zergling_bites_at_0_1_and_no_further() -> None:
    # 0.1 + 0.375 + 0.5 = 0.975, in multiples of 1/4096 0.974853... and 0.97509...
    for distance, walks in ((math.floor(0.975 * GRAIN) / GRAIN, False), (1.0, True)):
        target = Placed(9 + distance, 16, cooldown=NEVER)
        env = battle({"zergling": [Placed(9, 16)]}, {"zealot": [target]}, step_mul=1)
        command(env, ATTACK)
        assert (of(env, "x", 0) > 9) is walks


def test_the_ground_a_zergling_covers() -> None:
    env = battle({"zergling": [Placed(9, 16)]}, {"zealot": [FAR]})
    command(env, EAST)
    assert of(env, "x", 0) - 9 == pytest.approx(2.9531 / 2, abs=8 / 8192)


def test_of_two_that_kill_each_other_in_one_loop_one_lives() -> None:
    """Whose blows land first is a draw of each loop: about half the battles to either side."""
    ours, theirs = Placed(9, 16), Placed(9.8125, 16, (-1.0, 0.0), target=0)
    env = battle({"zergling": [ours]}, {"zergling": [theirs]}, n_envs=256, step_mul=1)
    for unit in (0, 1):
        alter(env, unit, health=4)
    command(env, ATTACK, loops=4)  # both bite in loop 4
    alive = see(env, "health") > 0
    assert (alive.sum(1) == 1).all()
    assert 96 <= alive[:, 0].sum() <= 160  # four standard deviations of 8


def test_zerg_regenerate_and_only_zerg() -> None:
    env = battle({"zergling": [Placed(9, 16, health=10)]}, {"marine": [Placed(30, 30, health=10)]})
    command(env, STOP, loops=2)
    assert see(env, "health")[0].tolist() == [10 + 16 * REGENERATION, 10]
    alter(env, 0, health=34.9921875)  # 32 / 4096 short of all there can be
    command(env, STOP)
    assert of(env, "health", 0) == 35


def test_the_dead_do_not_regenerate() -> None:
    env = battle({"zergling": [Placed(9, 16), FAR]}, {"marine": [Placed(1, 1)]})
    alter(env, 0, health=0)
    command(env, STOP, STOP)
    assert of(env, "health", 0) == 0


# ---------------------------------------------------------------- hydralisk


@pytest.mark.parametrize(
    ("edge", "lands"),
    [
        (0.125, 4),  # in melee: at the damage point, 1 + 3
        (0.5, 4),
        (0.5 + SLIGHTLY, 5),  # one loop of flight
        (2.5, 5),
        (2.5 + SLIGHTLY, 6),
        (4.875, 6),
    ],
)
def test_a_hydralisks_needles_fly_2_5_a_loop(edge: float, lands: int) -> None:
    # Another one stands, as it has its target in range.
    target = Placed(9 + 1.25 + edge, 16, cooldown=NEVER)
    env = battle({"hydralisk": [Placed(9, 16)]}, {"hydralisk": [target]}, step_mul=1)
    assert blows(env, 1, 10, ATTACK) == [[(lands, 12.0)]]


def test_a_hydralisk_shoots_every_12_to_16_loops() -> None:
    # 13.28 - 1 to 13.28 + 2, in whole loops; 12 if 0.28 of one and more were left.
    target = Placed(13, 16, cooldown=NEVER)
    env = battle({"hydralisk": [Placed(9, 16)]}, {"hydralisk": [target]}, n_envs=32, step_mul=1)
    found = blows(env, 1, 70, ATTACK)
    assert periods(found) == {12, 13, 14, 15, 16}
    for one in found:
        assert [loss for _, loss in one] == [12.0] + [12 - REGENERATION] * (len(one) - 1)


@pytest.mark.parametrize(("beyond", "walks"), [(0.0, False), (SLIGHTLY, True)])
def test_a_hydralisk_reaches_5(beyond: float, walks: bool) -> None:
    target = Placed(9 + 5 + 0.625 + 0.5 + beyond, 16)
    env = battle({"hydralisk": [Placed(9, 16)]}, {"zealot": [target]}, step_mul=1)
    command(env, ATTACK)
    assert (of(env, "x", 0) > 9) is walks


def test_a_hydralisk_hits_what_flies() -> None:
    allies = {"hydralisk": [Placed(9, 16)], "zergling": [Placed(1, 1)]}
    env = battle(allies, {"medivac": [Placed(13, 16)], "marine": [FAR]}, step_mul=1)
    assert blows(env, 2, 8, ATTACK, STOP) == [[(6, 11.0)]]  # armor 1; edge 4 - 1.375


# ------------------------------------------------------------ spine crawler


def spine_and(*stalkers: Placed, n_envs: int = 1, step_mul: int = 1) -> SkirmishEnv:
    """Stalkers against a spine crawler at (16, 16) that was ordered nothing, as on 2s_vs_1sc.

    It has the first of them as its target.
    """
    allies = {"stalker": list(stalkers)}
    env = battle(allies, {"spine_crawler": [Placed(16, 16, target=0)]}, n_envs, step_mul=step_mul)
    alter(env, len(stalkers), order=0)
    return env


@pytest.mark.parametrize("degrees", [0, 100, 180, 260])
@pytest.mark.parametrize(
    ("shield", "left"),
    [(80, (50, 80)), (30, (0, 80)), (20, (0, 71)), (0, (0, 51))],  # 30, less 1 on health
)
def test_a_spine_crawler_strikes_all_round(
    degrees: int, shield: float, left: tuple[float, float]
) -> None:
    x, y = (8 * f(math.radians(degrees)) for f in (math.cos, math.sin))
    env = spine_and(Placed(16 + x, 16 + y, shield=shield, shield_wait=NEVER))
    command(env, STOP, loops=10)
    assert (of(env, "shield", 0), of(env, "health", 0)) == (shield, 80)
    command(env, STOP)  # 1 + 5 + 5
    assert (of(env, "shield", 0), of(env, "health", 0)) == left


@pytest.mark.parametrize(("beyond", "hit"), [(0.0, True), (SLIGHTLY, False)])
def test_a_spine_crawler_reaches_7(beyond: float, hit: bool) -> None:
    env = spine_and(Placed(16 + 7 + 0.875 + 0.625 + beyond, 16))
    command(env, STOP, loops=11)
    assert (of(env, "shield", 0) == 50) is hit


def test_a_spine_crawlers_period() -> None:
    # 25.6 - 1 to 25.6 + 2, in whole loops; 24 if 0.6 of one and more were left.
    env = spine_and(Placed(22, 16, shield=5000, shield_wait=NEVER), n_envs=64)
    found = blows(env, 0, 160, STOP)
    assert {one[0] for one in found} == {(11, 30.0)}
    assert periods(found) == {24, 25, 26, 27, 28}


def test_what_stalkers_and_zealots_do_to_it() -> None:
    # 10 + 4 - 2 and twice 8 - 2.
    env = spine_and(Placed(20, 16))
    assert [loss for _, loss in blows(env, 1, 12, ATTACK)[0]] == [12.0]
    env = battle({"zealot": [Placed(14.5, 16)]}, {"spine_crawler": [Placed(16, 16)]}, step_mul=1)
    alter(env, 1, order=0)
    assert [loss for _, loss in blows(env, 1, 6, ATTACK)[0]] == [6.0, 6 - REGENERATION]


def test_a_spine_crawler_never_moves() -> None:
    """Not toward whom it has lost from its range, nor for who stands in it."""
    env = spine_and(Placed(15, 16), Placed(24, 16), step_mul=8)
    for _ in range(6):
        command(env, STOP, EAST)
        assert (of(env, "x", 2), of(env, "y", 2)) == (16, 16)
    assert of(env, "x", 0) <= 16 - TOUCH + 2 * SLIGHTLY  # the stalker has made room
    put(env, 0, Placed(25, 16))
    put(env, 1, Placed(16, 15.75))
    for _ in range(4):
        command(env, NORTH, STOP)
        assert (of(env, "x", 2), of(env, "y", 2)) == (16, 16)


def test_stalkers_walk_round_a_spine_crawler() -> None:
    env = spine_and(Placed(12, 16), step_mul=8)
    alter(env, 1, cooldown=NEVER)
    for _ in range(12):
        command(env, EAST)
        distance = math.hypot(of(env, "x", 0) - 16, of(env, "y", 0) - 16)
        assert distance > TOUCH - 0.05
    assert of(env, "x", 0) > 18
