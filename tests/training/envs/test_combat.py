"""Duels worked out on paper. With `step_mul=1` a step is one game loop, so they can be timed.

What the numbers below follow from (game loops, 16 a game second):
    marine   6 damage, range 5, period 13.77, damage point 1 loop after the swing begins
    stalker  10 (14 to armored), range 6, damage point 3 loops, missile 18.75 / 16 = 1.171875 a loop
    zealot   two strikes of 8, range 0.1, damage point 0, the second strike 4 loops after the first
    radii    marine 0.375, zealot 0.5, stalker 0.625; armor 0, 1, 1
A swing's cooldown is the weapon's period and -1 to +2 loops of noise.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.training.envs.battlefield import (
    ATTACK,
    EAST,
    NEVER,
    NORTH,
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

FAR = Placed(30, 30)  # a bystander, out of everybody's sight


def losses(env: SkirmishEnv, unit: int, actions: list[int], steps: int) -> list[tuple[int, float]]:
    """(step from 1, loss) of a unit's health and shield together, where there was one."""
    found = []
    before = of(env, "health", unit) + of(env, "shield", unit)
    for step in range(1, steps + 1):
        act(env, *actions)
        now = of(env, "health", unit) + of(env, "shield", unit)
        if now < before:
            found.append((step, before - now))
        before = now
    return found


# ----------------------------------------------------------------- moving


@pytest.mark.parametrize(("kind", "ground"), [("marine", 1.125), ("zealot", 1.125)])
def test_the_ground_covered_in_a_step(kind: str, ground: float) -> None:
    env = battle({kind: [Placed(9, 16)]}, {"marine": [FAR]})
    act(env, EAST)
    assert (of(env, "x", 0), of(env, "y", 0)) == (9 + ground, 16)  # 8 loops of 2.25 / 16


def test_the_ground_a_stalker_covers() -> None:
    env = battle({"stalker": [Placed(9, 16)]}, {"marine": [FAR]})
    act(env, NORTH)
    # 8 loops of 2.9531 / 16, which is 756 of the positions' grains of 1/4096.
    assert of(env, "y", 0) - 16 == 8 * 756 / 4096


def test_turning_to_walk_takes_no_time() -> None:
    env = battle({"marine": [Placed(9, 16)]}, {"marine": [FAR]})
    for action, x in ((EAST, 9 + 1.125), (WEST, 9), (EAST, 9 + 1.125)):
        act(env, action)
        assert of(env, "x", 0) == x


def test_an_attack_out_of_weapon_range_walks_up_first() -> None:
    # Shootable at 6, but the weapon reaches 5 + 0.375 + 0.375 = 5.75: two loops of 0.1406.
    still = Placed(15, 16, cooldown=NEVER, health=45)
    env = battle({"marine": [Placed(9, 16)]}, {"marine": [still]}, step_mul=1)
    first = losses(env, 1, [ATTACK], 6)[0]
    assert of(env, "x", 0) == pytest.approx(9.25, abs=1 / 32)
    assert of(env, "x", 1) <= 15
    # The enemy may come closer too, so one loop may do; then the swing begins, and one loop later:
    assert first in ((3, 6.0), (4, 6.0))


# ----------------------------------------------------------------- marine


def test_a_marine_fires_6_damage_every_12_to_16_loops() -> None:
    """The period is 13.77 - 1 to 13.77 + 2 loops; a swing begins in the first loop after it, and
    what was left of that loop counts for the next one: in the mean it is 13.77 + 0.5."""
    target = Placed(12, 16, health=5000, cooldown=NEVER)
    env = battle({"marine": [Placed(9, 16)]}, {"marine": [target]}, n_envs=64, step_mul=1)
    health, shots = see(env, "health")[:, 1], []
    for _ in range(150):
        act(env, ATTACK)
        now = see(env, "health")[:, 1]
        assert set(health - now) <= {0.0, 6.0}
        shots.append(now < health)
        health = now
    at = [np.flatnonzero(fired) + 1 for fired in np.array(shots).T]
    assert {fired[0] for fired in at} == {2}  # the swing begins in loop 1, the damage point is 1
    periods = np.concatenate([np.diff(fired) for fired in at])
    assert set(periods) == {12, 13, 14, 15, 16}
    assert abs(periods.mean() - 14.27) < 0.2  # without what was left it would be 14.77
    # Loops 2 to 150 hold the first shot and as many periods as fit: 148 / 16 to 148 / 12.77.
    assert {len(fired) for fired in at} <= {10, 11, 12}


def test_what_is_left_of_a_loop_counts_for_the_next_attack() -> None:
    def cooldown_after(left: float, idle: int) -> float:
        """After a swing that begins once a cooldown of so much, less so many loops, is over."""
        enemy = Placed(12, 16, cooldown=NEVER)
        env = battle({"marine": [Placed(9, 16)]}, {"marine": [enemy]}, step_mul=1)
        command(env, STOP, loops=3 - idle)
        alter(env, 0, cooldown=left)
        command(env, STOP, loops=idle)
        command(env, ATTACK)  # always in the fourth loop, and so with the same noise
        return of(env, "cooldown", 0)

    whole = cooldown_after(1, 0)
    assert 13.77 - 1 <= whole < 13.77 + 2
    for left in (0.25, 0.5, 0.875):  # what is left is 1 less that much, and shortens the next one
        assert cooldown_after(left, 0) == pytest.approx(whole - (1 - left), abs=1e-5)
    # Who does not attack in that very loop has lost it.
    assert cooldown_after(0.25, 1) == whole
    assert cooldown_after(0, 0) == whole


def test_a_marine_kills_a_marine_in_8_shots_at_most_16_loops_apart() -> None:
    # 45 health are 8 shots of 6. Seven periods of 12.77 to 15.77 loops after loop 2: loop 92 to
    # 113, that is step 12 to 15.
    target = Placed(12, 16, cooldown=NEVER)
    env = battle({"marine": [Placed(9, 16)]}, {"marine": [target]}, n_envs=8)
    ended = np.zeros(8, dtype=int)
    for step in range(1, 16):
        after = act(env, ATTACK)
        ended = np.where((ended == 0) & after.terminated.numpy(), step, ended)
    assert after.terminated.all()
    assert ended.min() >= 12
    assert ended.max() <= 15


@pytest.mark.parametrize(
    ("degrees", "lands"), [(0, 2), (62, 2), (63, 3), (124, 3), (126, 4), (180, 4)]
)
@pytest.mark.parametrize("side", [1, -1])
def test_before_a_shot_a_unit_turns_62_degrees_and_a_half_a_loop(
    degrees: int, lands: int, side: int
) -> None:
    angle = math.radians(degrees * side)
    looking = Placed(9, 16, looks=(math.cos(angle), math.sin(angle)))
    env = battle({"marine": [looking]}, {"marine": [Placed(12, 16, cooldown=NEVER)]}, step_mul=1)
    assert losses(env, 1, [ATTACK], 8) == [(lands, 6.0)]
    assert of(env, "face_x", 0) == pytest.approx(1)


def test_who_waits_for_its_cooldown_has_turned_by_then() -> None:
    waiting = Placed(9, 16, looks=(-1.0, 0.0), cooldown=4)
    env = battle({"marine": [waiting]}, {"marine": [Placed(12, 16, cooldown=NEVER)]}, step_mul=1)
    # The cooldown is over in loop 4, and the turn in loop 3; the damage point is a loop later.
    assert losses(env, 1, [ATTACK], 8) == [(5, 6.0)]


# ----------------------------------------------------------------- zealot


def test_a_zealot_strikes_twice_against_shields_first_and_armor_on_health() -> None:
    target = Placed(10, 16, shield=20, health=100, shield_wait=NEVER, cooldown=NEVER)
    env = battle({"zealot": [Placed(9, 16)]}, {"zealot": [target]}, step_mul=1)
    seen: list[tuple[int, tuple[float, float]]] = []
    for loop in range(1, 28):
        act(env, ATTACK)
        now = (of(env, "shield", 1), of(env, "health", 1))
        if not seen or now != seen[-1][1]:
            seen.append((loop, now))
    # 20 - 8 = 12, 12 - 8 = 4; then 4 on the shield and 4 - 1 on health; then 8 - 1 on health.
    assert [now for _, now in seen] == [(12, 100), (4, 100), (0, 97), (0, 90)]
    (a, _), (b, _), (c, _), (d, _) = seen
    assert (a, b - a, d - c) == (1, 4, 4)
    assert 18.2 <= c - a <= 22  # 19.2 - 1 to 19.2 + 2, in whole loops


@pytest.mark.parametrize(
    ("shield", "health"),
    [
        (8, 100),  # all on the shield
        (7.5, 99.5),  # 0.5 is left for health; armor 1 would take all of it: 0.5 at least
        (7, 99.5),  # 1 - 1 = 0: 0.5 at least
        (6, 99),  # 2 - 1
        (0, 93),  # 8 - 1
    ],
)
def test_armor_leaves_half_a_point_at_least(shield: float, health: float) -> None:
    target = Placed(10, 16, shield=shield, shield_wait=NEVER, cooldown=NEVER)
    env = battle({"zealot": [Placed(9, 16)]}, {"zealot": [target]}, step_mul=1)
    act(env, ATTACK)
    assert (of(env, "shield", 1), of(env, "health", 1)) == (0, health)


def test_a_zealot_killed_between_its_strikes_strikes_once() -> None:
    target = Placed(10, 16, shield=0, shield_wait=NEVER, cooldown=NEVER)
    env = battle({"zealot": [Placed(9, 16), FAR]}, {"zealot": [target]}, step_mul=1)
    act(env, ATTACK, STOP)
    alter(env, 0, health=0)
    for _ in range(6):
        act(env, 0, STOP)
    assert of(env, "health", 2) == 93


# ---------------------------------------------------------------- shields


def test_shields_regenerate_after_160_loops_without_damage() -> None:
    enemy = Placed(12, 16, cooldown=NEVER)
    env = battle({"marine": [Placed(9, 16)]}, {"stalker": [enemy]})
    act(env, ATTACK)  # one shot, in loop 2: the next swing would begin in loop 14 at the earliest
    assert of(env, "shield", 1) == 74
    for _ in range(19):
        act(env, STOP)
    assert of(env, "shield", 1) == 74  # loop 160 has passed, the damage was done in loop 2
    act(env, STOP)
    assert of(env, "shield", 1) == 74 + 7 * 0.125  # loops 162 to 168
    act(env, STOP)
    assert of(env, "shield", 1) == 74 + 15 * 0.125
    alter(env, 1, shield=79.75)
    act(env, STOP)
    assert of(env, "shield", 1) == 80  # and no more than there can be
    assert of(env, "health", 1) == 80


def test_damage_begins_the_160_loops_anew() -> None:
    enemy = Placed(12, 16, shield=10, cooldown=NEVER)  # regenerates from the start
    env = battle({"marine": [Placed(9, 16)]}, {"stalker": [enemy]})
    act(env, ATTACK)
    # Loops 1 and 2 regenerate (time passes before shots land), then 6 are lost, then nothing.
    assert of(env, "shield", 1) == 10 + 2 * 0.125 - 6
    act(env, STOP)
    assert of(env, "shield", 1) == 4.25


def test_marines_have_nothing_to_regenerate() -> None:
    env = battle({"marine": [Placed(9, 16, health=10)]}, {"marine": [FAR]})
    for _ in range(3):
        act(env, STOP)
    assert (of(env, "health", 0), of(env, "shield", 0)) == (10, 0)


# ---------------------------------------------------------------- stalker


@pytest.mark.parametrize(
    ("edge", "flight"),
    [
        (1.171875, 1),  # exactly one loop's way
        (1.25, 2),
        (3.5, 3),  # 2.987 loops
        (4.75, 5),  # 4.05 loops, the furthest that two stalkers can order
    ],
)
def test_a_missile_takes_its_way_in_whole_loops(edge: float, flight: int) -> None:
    enemy = Placed(9 + edge + 1.25, 16, cooldown=NEVER)
    env = battle({"stalker": [Placed(9, 16)]}, {"stalker": [enemy]}, step_mul=1)
    # Begun in loop 1, launched 3 loops later; 14 to the armored, all on the shield.
    assert losses(env, 1, [ATTACK], 12) == [(4 + flight, 14.0)]


def test_what_a_stalker_does_to_whom() -> None:
    for kind, lost in (("stalker", 14 - 1), ("zealot", 10 - 1), ("marine", 10)):
        enemy = Placed(12, 16, cooldown=NEVER, shield=0, shield_wait=NEVER)
        env = battle({"stalker": [Placed(9, 16)]}, {kind: [enemy]})
        before = of(env, "health", 1)
        act(env, ATTACK)
        assert before - of(env, "health", 1) == lost, kind


def test_a_missile_lands_after_its_shooters_death() -> None:
    enemy = Placed(15, 16, cooldown=NEVER)
    env = battle({"stalker": [Placed(9, 16), FAR]}, {"stalker": [enemy]}, step_mul=1)
    for _ in range(4):
        act(env, ATTACK, STOP)  # launched in loop 4, lands in loop 9
    alter(env, 0, health=0)
    for _ in range(4):
        act(env, 0, STOP)
    assert of(env, "shield", 2) == 80
    landed = act(env, 0, STOP)
    assert of(env, "shield", 2) == 66
    assert landed.reward.item() == pytest.approx(14 * 20 / (10 + 200 + 160))


def test_a_shooter_killed_before_its_missile_is_launched_does_nothing() -> None:
    enemy = Placed(15, 16, cooldown=NEVER)
    env = battle({"stalker": [Placed(9, 16), FAR]}, {"stalker": [enemy]}, step_mul=1)
    for _ in range(3):
        act(env, ATTACK, STOP)
    alter(env, 0, health=0)
    assert losses(env, 2, [0, STOP], 12) == []


def test_a_missile_is_wasted_on_the_dead() -> None:
    enemies = [Placed(15, 16, cooldown=NEVER), Placed(15, 17.25, cooldown=NEVER)]
    env = battle({"stalker": [Placed(9, 16)]}, {"stalker": enemies}, step_mul=1)
    for _ in range(5):
        act(env, ATTACK)
    alter(env, 1, health=0)
    rewards = [act(env, STOP).reward.item() for _ in range(8)]
    assert rewards == [0.0] * 8
    assert of(env, "shield", 2) == 80


def test_a_missile_follows_a_target_that_runs() -> None:
    enemy = Placed(15, 16, cooldown=NEVER)
    env = battle({"stalker": [Placed(9, 16)]}, {"stalker": [enemy]}, step_mul=1)
    for _ in range(4):
        act(env, ATTACK)
    put(env, 1, Placed(29, 16, cooldown=NEVER))
    assert [loss for _, loss in losses(env, 1, [STOP], 6)] == [14.0]


# ----------------------------------------------------------------- orders


def test_an_ally_whose_target_died_stands_idle_until_the_next_step() -> None:
    enemies = [Placed(12, 16, health=6, cooldown=NEVER), Placed(12, 17, cooldown=NEVER)]
    env = battle({"marine": [Placed(9, 16)]}, {"marine": enemies}, step_mul=40)
    after = act(env, ATTACK)  # kills in loop 2; the next shot could come in loop 19 at the latest
    assert after.dead_enemies.item() == 1
    assert (of(env, "health", 2), of(env, "x", 0), of(env, "y", 0)) == (45, 9, 16)
    act(env, ATTACK + 1)
    assert of(env, "health", 2) < 45


def test_an_idle_ally_does_not_resume_an_earlier_move() -> None:
    enemies = [Placed(12, 16, health=6, cooldown=NEVER), FAR]
    env = battle({"marine": [Placed(9, 16)]}, {"marine": enemies})
    act(env, NORTH)  # its point is 2 away, and 1.125 of them are covered
    put(env, 0, Placed(9, 16, goal=(9, 20)))
    assert act(env, ATTACK).dead_enemies.item() == 1  # in loop 2 of 8
    assert (of(env, "x", 0), of(env, "y", 0)) == (9, 16)


@pytest.mark.parametrize(("drift", "hit"), [(0.875, True), (1.125, False)])
def test_a_target_may_drift_1_out_of_range_during_the_swing(drift: float, hit: bool) -> None:
    enemy = Placed(15, 16, cooldown=NEVER)
    env = battle({"stalker": [Placed(9, 16)]}, {"stalker": [enemy]}, step_mul=1, heuristic_ai=True)
    for _ in range(2):
        act(env, ATTACK)
    put(env, 1, Placed(9 + 7.25 + drift, 16, cooldown=NEVER))  # 7.25 is in range
    act(env, ATTACK)
    act(env, ATTACK)  # the damage point, if the swing goes on
    put(env, 1, Placed(29, 16, cooldown=NEVER))
    assert bool(losses(env, 1, [ATTACK], 8)) is hit


def test_orders_given_anew_each_loop_change_nothing() -> None:
    """Eight steps of one loop with the same attack end where one step of eight loops does."""

    def fight(step_mul: int) -> SkirmishEnv:
        allies = {"stalker": [Placed(9, 16), Placed(9, 18)]}
        return battle(allies, {"stalker": [Placed(15, 16), Placed(15, 18)]}, step_mul=step_mul)

    slow, fast = fight(8), fight(1)
    for _ in range(5):
        act(slow, ATTACK, ATTACK + 1)
        for _ in range(8):
            act(fast, ATTACK, ATTACK + 1)
    for what in ("x", "y", "health", "shield", "cooldown"):
        assert np.array_equal(see(slow, what), see(fast, what)), what
    assert see(slow, "shield").min() < 80


def test_another_action_aborts_a_swing_and_costs_no_cooldown() -> None:
    enemy = Placed(10.25 + 1.171875, 16, cooldown=NEVER)
    env = battle({"stalker": [Placed(9, 16)]}, {"stalker": [enemy]}, step_mul=1)
    for _ in range(3):
        act(env, ATTACK)  # the damage point would be in loop 4
    assert losses(env, 1, [STOP], 8) == []
    assert losses(env, 1, [ATTACK], 8) == [(5, 14.0)]  # anew: 4 loops to the launch, 1 of flight


def test_another_target_begins_another_swing() -> None:
    at = 10.25 + 1.171875
    enemies = [Placed(at, 16, cooldown=NEVER), Placed(9, 16 + 1.25 + 1.171875, cooldown=NEVER)]
    env = battle({"stalker": [Placed(9, 16)]}, {"stalker": enemies}, step_mul=1)
    for _ in range(3):
        act(env, ATTACK)
    second = losses(env, 2, [ATTACK + 1], 9)
    # 90 degrees are more than one loop's turn of 62.5: the swing begins in the second loop.
    assert second == [(6, 14.0)]
    assert of(env, "shield", 1) == 80


def test_stopping_after_the_shot_keeps_the_cooldown() -> None:
    enemy = Placed(12, 16, cooldown=NEVER)
    env = battle({"marine": [Placed(9, 16)]}, {"marine": [enemy]}, step_mul=1)
    assert losses(env, 1, [ATTACK], 2) == [(2, 6.0)]
    act(env, STOP)
    assert 10.7 < of(env, "cooldown", 0) < 13.8  # 12.77 to 15.77, set in loop 1, two loops ago
    assert losses(env, 1, [ATTACK], 9) == []


@pytest.mark.parametrize("action", [STOP, NORTH])
def test_nobody_fires_without_an_order(action: int) -> None:
    enemies = [Placed(10, 16, cooldown=NEVER), Placed(12, 16, cooldown=NEVER)]
    env = battle({"marine": [Placed(9, 16)]}, {"marine": enemies})
    for _ in range(3):
        act(env, action)
    assert see(env, "health")[0].tolist() == [45, 45, 45]


def test_agents_do_not_fire_back_either() -> None:
    env = battle({"marine": [Placed(9, 16)]}, {"marine": [Placed(12, 16)]})
    for _ in range(3):
        act(env, STOP)
    assert of(env, "health", 0) < 45
    assert of(env, "health", 1) == 45
    assert (of(env, "x", 0), of(env, "y", 0)) == (9, 16)


# ----------------------------------------------------- within a single loop


def test_of_two_that_would_kill_each_other_in_one_loop_one_lives() -> None:
    ours, theirs = Placed(9, 16, health=6), Placed(12, 16, health=6, looks=(-1, 0), target=0)
    env = battle({"marine": [ours]}, {"marine": [theirs]}, n_envs=64, step_mul=1)
    act(env, ATTACK)
    after = act(env, ATTACK)
    assert after.terminated.all()
    alive = see(env, "health") > 0
    assert (alive.sum(1) == 1).all()
    assert 16 <= after.battle_won.sum() <= 48  # a fair coin: four standard deviations of 4


def test_missiles_in_flight_kill_both() -> None:
    ours = Placed(9, 16, health=1, shield=0, shield_wait=NEVER)
    theirs = Placed(14, 16, health=1, shield=0, shield_wait=NEVER, looks=(-1, 0), target=0)
    env = battle({"stalker": [ours]}, {"stalker": [theirs]})
    act(env, ATTACK)  # both launch in loop 4, and are 3.75 apart: 4 loops of flight
    assert see(env, "health").tolist() == [[0, 0]]


def test_shots_at_one_target_in_one_loop_take_what_there_is() -> None:
    allies = [Placed(9, 15), Placed(9, 16), Placed(9, 17)]
    enemies = [Placed(12, 16, health=9, cooldown=NEVER), Placed(12, 18, cooldown=NEVER)]
    env = battle({"marine": allies}, {"marine": enemies}, step_mul=1)
    act(env, ATTACK, ATTACK, ATTACK)
    after = act(env, ATTACK, ATTACK, ATTACK)
    assert see(env, "health")[0].tolist() == [45, 45, 45, 0, 45]
    # Three shots of 6 land in loop 2, but 9 health are all that can be taken; and a death's 10.
    assert after.reward.item() == pytest.approx((9 + 10) * 20 / (2 * 55 + 200))


def test_who_is_spared_by_a_kill_in_the_same_loop_has_its_shot() -> None:
    # All three fire in loop 2: ours[1] at B, B at ours[0], ours[0] at D. Where our side's blows
    # land first, B never shoots, and so ours[0] lives; where theirs do, ours[0] never does.
    ours = [Placed(9, 16, health=1), Placed(9, 18.5)]
    b = Placed(12, 16, health=1, looks=(-1, 0), target=0)
    d = Placed(12, 13, cooldown=NEVER)
    env = battle({"marine": ours}, {"marine": [b, d]}, n_envs=128, step_mul=1)
    act(env, ATTACK + 1, ATTACK)
    act(env, ATTACK + 1, ATTACK)
    health = see(env, "health")
    spared = health[:, 0] > 0
    assert 20 <= spared.sum() <= 108
    assert (health[spared, 3] == 39).all()
    assert (health[~spared, 3] == 45).all()
    assert (health[:, 2] == 0).all()  # nobody is after ours[1]
