"""Colossi: a line of fire across the shot, and legs that stand over others and over cliffs.

What the numbers follow from (game loops, 16 a game second):
    two beams of 20, range 6, period 35.2, damage point 1 loop, and 6 more until the line burns
    the line is 2.5 long, centred on the target, and hits whose edge is within 0.15 of it:
    zergling (radius 0.375, 35 health) 0.525; zealot (radius 0.5, armor 1) 0.65
    radii: colossus 1, so it reaches a zergling at 6 + 1 + 0.375 = 7.375 and a zealot at 7.5
Zerglings scan for it within 5 + 1 + 0.375 = 6.375: whoever stands further off stands still.
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
    SOUTH,
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

FAR = Placed(30, 1)
FURTHER = Placed(1, 30)


def volley(other: tuple[float, float], at: tuple[float, float] = (8, 16)) -> float:
    """Health of a zergling that stands thus beside the target at (15, 16), after a volley."""
    way = (15 - at[0], 16 - at[1])
    looks = (way[0] / math.hypot(*way), way[1] / math.hypot(*way))
    lings = [Placed(15, 16), Placed(15 + other[0], 16 + other[1])]
    env = battle({"colossus": [Placed(*at, looks)]}, {"zergling": lings}, step_mul=1)
    command(env, ATTACK, loops=8)
    assert of(env, "health", 1) == 0
    return of(env, "health", 2)


@pytest.mark.parametrize(
    ("other", "burns"),
    [
        ((0, 0.75), True),
        ((0, -1.75), True),  # 1.25 + 0.525 = 1.775 along the line
        ((0, 1.8125), False),
        ((0, -1.8125), False),
        ((0.5, -0.75), True),  # 0.525 deep, before the line and behind it
        ((-0.5, 0.75), True),
        ((0.5625, 0.75), False),
        ((-0.5625, -0.75), False),
        ((0.3125, 1.625), True),  # the end is round: 0.3125 and 0.375 past it are 0.488
        ((0.375, 1.625), False),  # 0.530
        ((1.5, 0), False),  # straight behind the target
    ],
)
def test_who_is_on_the_line(other: tuple[float, float], burns: bool) -> None:
    assert volley(other) == (0 if burns else 35)


@pytest.mark.parametrize(
    ("other", "burns"),
    [
        ((-1, 1), True),  # 1.414 along a line that lies from north-west to south-east
        ((1.25, -1.25), True),  # 1.768
        ((1.3125, -1.3125), False),  # 1.856
        ((0.75, 0.75), False),
        ((0, -1.25), False),  # 0.884 deep
    ],
)
def test_the_line_lies_across_the_shot(other: tuple[float, float], burns: bool) -> None:
    assert volley(other, at=(10, 11)) == (0 if burns else 35)


def test_a_row_of_zerglings_burns_in_one_volley_at_loop_8() -> None:
    # 0.75 apart, two to either side of the target are within 1.775; the third ones are not.
    row = [Placed(15, 16 + 0.75 * i) for i in range(-3, 4)]
    env = battle({"colossus": [Placed(8, 16)]}, {"zergling": row}, step_mul=1)
    command(env, ATTACK + 3, loops=7)
    assert see(env, "health")[0, 1:].tolist() == [35] * 7
    command(env, ATTACK + 3)
    assert see(env, "health")[0, 1:].tolist() == [35, 0, 0, 0, 0, 0, 35]


@pytest.mark.parametrize(
    ("shield", "left"),
    [
        (50, (10, 100)),
        (40, (0, 100)),
        (30, (0, 91)),  # 20 + 10 on the shield, 10 - 1
        (20, (0, 81)),  # 20 on the shield, 20 - 1
        (19.5, (0, 80.5)),  # 0.5 is left of the first beam, at least 0.5 of it hurts; and 19
        (10, (0, 72)),  # 10 on the shield and 10 - 1; 20 - 1
        (0, (0, 62)),  # twice 20 - 1
    ],
)
def test_shields_and_armor_against_each_beam(shield: float, left: tuple[float, float]) -> None:
    zealots = [Placed(15, 15 + i, shield=shield, shield_wait=NEVER) for i in range(3)]
    env = battle({"colossus": [Placed(8, 16)]}, {"zealot": zealots}, step_mul=1)
    command(env, ATTACK + 1, loops=8)
    for unit in (1, 2, 3):
        assert (of(env, "shield", unit), of(env, "health", unit)) == left


def test_two_volleys_in_one_loop_are_four_beams() -> None:
    # 20 + 20 + 10 on the shield; 10 - 1 and 20 - 1.
    ours = [Placed(8, 16), Placed(15, 9, looks=(0.0, 1.0))]
    enemy = Placed(15, 16, shield_wait=NEVER)
    env = battle({"colossus": ours}, {"zealot": [enemy]}, step_mul=1)
    command(env, ATTACK, ATTACK, loops=8)
    assert (of(env, "shield", 2), of(env, "health", 2)) == (0, 72)


def test_the_enemys_colossi_burn_our_lines_just_so() -> None:
    # At the one at (9, 16); 0.65 is near enough for zealots, 1.25 + 0.65 along.
    row = [Placed(9, 16 + dy, shield=0, shield_wait=NEVER) for dy in (0, 1.875, -1.9375)]
    enemies = {"colossus": [Placed(15, 16, looks=(-1.0, 0.0), target=0)]}
    env = battle({"zealot": row}, enemies, step_mul=1)
    command(env, STOP, STOP, STOP, loops=7)
    assert see(env, "health")[0, :3].tolist() == [100, 100, 100]
    command(env, STOP, STOP, STOP)
    assert see(env, "health")[0, :3].tolist() == [62, 62, 100]


def test_a_volley_every_34_to_38_loops() -> None:
    """35.2 - 1 to 35.2 + 2, in whole loops; 34 if 0.2 of one and more were left."""
    target = Placed(15, 16, shield=0, shield_wait=NEVER, cooldown=NEVER)
    env = battle({"colossus": [Placed(8, 16)]}, {"colossus": [target]}, n_envs=32, step_mul=1)
    at: list[list[int]] = [[] for _ in range(32)]
    before = see(env, "health")[:, 1]
    for loop in range(1, 90):
        command(env, ATTACK)
        now = see(env, "health")[:, 1]
        for slot in (now < before).nonzero()[0]:
            assert before[slot] - now[slot] == 38
            at[slot].append(loop)
        before = now
    assert {times[0] for times in at} == {8}
    assert {len(times) for times in at} == {3}
    assert {b - a for times in at for a, b in pairwise(times)} == {34, 35, 36, 37, 38}


def test_friends_on_the_line_are_spared_and_so_is_who_flies() -> None:
    allies = {"colossus": [Placed(8, 16)], "zealot": [Placed(15, 16.875), FAR]}
    enemies = {"marine": [Placed(15, 16, cooldown=NEVER)], "medivac": [Placed(15, 16)]}
    env = battle(allies, enemies, step_mul=1)
    command(env, ATTACK, STOP, STOP, loops=8)
    assert of(env, "health", 3) < 45
    assert (of(env, "health", 1), of(env, "shield", 1)) == (100, 50)
    assert of(env, "health", 4) == 150


def test_a_colossus_is_hit_on_the_line_as_ground_units_are() -> None:
    # At 2.25 along: the line's end is 1 away, and 0.15 + 1 burns.
    lines = [Placed(15, 16, cooldown=NEVER), Placed(15, 18.25, cooldown=NEVER)]
    env = battle({"colossus": [Placed(8, 16)]}, {"colossus": lines}, step_mul=1)
    command(env, ATTACK, loops=8)
    assert see(env, "shield")[0].tolist() == [150, 110, 110]


@pytest.mark.parametrize(("beyond", "lands"), [(0.0, 8), (1 / GRAIN, 9)])
def test_the_edge_of_range(beyond: float, lands: int) -> None:
    # Just beyond it walks for one loop.
    ling = Placed(15.375 + beyond, 16)
    env = battle({"colossus": [Placed(8, 16)]}, {"zergling": [ling]}, step_mul=1)
    command(env, ATTACK, loops=lands - 1)
    assert of(env, "health", 1) == 35
    assert (of(env, "x", 0) == 8) is (lands == 8)
    command(env, ATTACK)
    assert of(env, "health", 1) == 0


@pytest.mark.parametrize(("drift", "burns"), [(0.0, True), (1 / GRAIN, False)])
def test_a_target_may_not_drift_out_of_range_before_the_damage_point(
    drift: float, burns: bool
) -> None:
    env = battle({"colossus": [Placed(8, 16)]}, {"zergling": [Placed(15, 16)]}, step_mul=1)
    command(env, ATTACK)
    put(env, 1, Placed(15.375 + drift, 16))
    command(env, ATTACK)
    put(env, 1, Placed(15, 16))
    command(env, STOP, loops=6)
    assert (of(env, "health", 1) == 0) is burns


@pytest.mark.parametrize(
    ("degrees", "lands"),
    [
        (0, 8),
        (90, 8),  # 62.5 of them are turned in the first loop, and 27.5 are within half the arc
        (107, 8),  # 44.5
        (108, 9),  # 45.5: one more loop
        (180, 10),  # 117.5, 55, and then it faces the target
    ],
)
def test_it_fires_within_its_arc_of_90_degrees(degrees: int, lands: int) -> None:
    angle = math.radians(degrees)
    looks = (math.cos(angle), math.sin(angle))
    env = battle({"colossus": [Placed(8, 16, looks)]}, {"zergling": [Placed(15, 16)]}, step_mul=1)
    command(env, ATTACK, loops=lands - 1)
    assert of(env, "health", 1) == 35
    command(env, ATTACK)
    assert of(env, "health", 1) == 0


def test_what_burns_goes_on_burning_when_its_target_dies() -> None:
    """The first to fire kills the target a loop before the other's line burns there."""
    lings = [Placed(15, 16), Placed(15, 17.5), Placed(16.5, 16)]
    # The second looks 135 degrees away, turns for two loops and lands in loop 9.
    southwest = (-(0.5**0.5), -(0.5**0.5))
    ours = [Placed(8, 16), Placed(15, 9, looks=southwest)]
    env = battle({"colossus": ours}, {"zergling": lings}, step_mul=1)
    command(env, ATTACK, ATTACK, loops=8)
    assert see(env, "health")[0, 2:].tolist() == [0, 0, 35]
    command(env, STOP, STOP)
    assert see(env, "health")[0, 2:].tolist() == [0, 0, 0]


def test_it_stands_over_ground_units_and_walks_through_them() -> None:
    friends = [Placed(10 + i, 16) for i in range(4)]  # 0.9385 apart they would touch
    allies = {"colossus": [Placed(10, 16)], "zealot": friends}
    env = battle(allies, {"zergling": [FAR], "baneling": [FURTHER]})
    command(env, EAST, *[STOP] * 4, loops=2)
    assert (of(env, "x", 0), of(env, "y", 0)) == (12.25, 16)
    assert see(env, "x")[0, 1:5].tolist() == [10, 11, 12, 13]
    assert set(see(env, "y")[0, :5].tolist()) == {16}


def test_colossi_stand_apart_from_each_other() -> None:
    ours = [Placed(10, 16), Placed(11, 16)]
    env = battle({"colossus": ours}, {"zergling": [FAR]}, step_mul=1)
    # By 0.25 each in a loop, as far as one so wide is pushed; 1 + 1 - 0.0615 is where they touch.
    for apart in (1.5, 2 - 252 / GRAIN):
        command(env, STOP, STOP)
        assert of(env, "x", 1) - of(env, "x", 0) == pytest.approx(apart, abs=2 / GRAIN)


def on_the_plateau(*colossi: Placed) -> SkirmishEnv:
    """2c_vs_64zg with the colossi here and a single zergling in a corner."""
    env = SkirmishEnv("2c_vs_64zg", 1)
    for unit, placed in enumerate(colossi):
        put(env, unit, placed)
    for unit in range(3, 66):
        alter(env, unit, health=0)
    put(env, 2, Placed(1.5, 16, cooldown=NEVER))
    return env


def test_it_walks_down_the_cliff_and_up_again() -> None:
    south, north = (0.0, -1.0), (0.0, 1.0)
    env = on_the_plateau(Placed(16, 13.5, south), Placed(20, 11.5, north))
    command(env, SOUTH, NORTH, loops=2)
    # SMAC's masks would not offer it: they ask for pathable cells, which row 12 has none of.
    assert see(env, "y")[0, :2].tolist() == [13.5 - 2 * 1.125, 11.5 + 2 * 1.125]


def test_it_does_not_walk_into_the_void() -> None:
    south, north = (0.0, -1.0), (0.0, 1.0)
    env = on_the_plateau(Placed(16, 6.5, south), Placed(20, 19.5, north))
    command(env, SOUTH, NORTH, loops=4)
    # The void begins below 5 and above 21; 0.75 off, steps of 0.1406 stop short of the edge.
    assert 5.75 <= of(env, "y", 0) < 5.75 + 2.25 / 16
    assert 20.25 - 2.25 / 16 < of(env, "y", 1) <= 20.25
