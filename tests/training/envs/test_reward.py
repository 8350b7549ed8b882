"""The reward of scripted fights, and how battles end. Rewards are given in points before scaling.

A map's points are 10 for each enemy's death, 200 for the win and all the enemies' health and
shields; SMAC scales them so that a win without regeneration sums to 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.training.envs import reference
from tests.training.envs.battlefield import (
    ATTACK,
    NEVER,
    STOP,
    Placed,
    act,
    alter,
    battle,
    of,
    put,
)
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.layout import in_agent_order
from training.envs.skirmish.options import SkirmishOptions
from training.envs.skirmish.reward import DRAWN, LOST, UNDECIDED, WON, Ending, Reward, max_reward
from training.envs.skirmish.scenario import load_scenario, unit_types

FAR = Placed(30, 30)
TWO_MARINES = 2 * 10 + 200 + 2 * 45  # 310 points


def marines(n_allies: int, *enemies: Placed, **options: Any) -> SkirmishEnv:
    """Marines at (9, 16), (9, 17), ... against these."""
    allies = [Placed(9, 16 + i) for i in range(n_allies)]
    return battle({"marine": allies}, {"marine": list(enemies)}, **options)


def test_the_reward_of_each_step_of_a_fight() -> None:
    enemies = [Placed(12, 16, health=13, cooldown=NEVER), Placed(12, 17, health=6, cooldown=NEVER)]
    env = marines(2, *enemies)
    points = []

    def step(*actions: int, ready: tuple[int, ...]) -> bool:
        """In a step each marine that is `ready` fires once, in loop 2; the others cannot."""
        for agent in (0, 1):
            alter(env, agent, cooldown=0 if agent in ready else NEVER)
        after = act(env, *actions)
        points.append(after.reward.item() * TWO_MARINES / 20)
        assert after.battle_won.item() is after.terminated.item()
        return bool(after.terminated.item())

    assert not step(ATTACK, ATTACK, ready=(0, 1))  # 13 - 12
    assert not step(STOP, STOP, ready=(0, 1))
    assert not step(ATTACK, STOP, ready=(0,))  # the last point of health, and a death
    assert not step(STOP, STOP, ready=(0, 1))  # the dead pay once
    assert step(STOP, ATTACK + 1, ready=(1,))  # 6, a death, the win
    assert points == pytest.approx([12, 0, 1 + 10, 0, 6 + 10 + 200], abs=1e-4)
    # The battle is over: it stands still, and pays no more.
    assert not step_pays(env)


def step_pays(env: SkirmishEnv) -> bool:
    after = act(env, STOP, STOP)
    assert after.terminated.all()
    assert not after.battle_won.any()
    return bool(after.reward.any())


def test_a_clean_win_sums_to_exactly_20() -> None:
    env = SkirmishEnv("8m", 1)  # 80 + 200 + 360 = 640 points: divided by 32, which float32 can
    for i in range(8):
        put(env, i, Placed(12, 12 + i))
        put(env, 8 + i, Placed(14, 12 + i, cooldown=NEVER))
    total, target = 0.0, 0
    for _ in range(40):
        while of(env, "health", 8 + target) == 0:
            target += 1
        after = act(env, *[ATTACK + target if abs(i - target) <= 5 else STOP for i in range(8)])
        total += after.reward.item()
        if after.terminated.item():
            break
    assert after.battle_won.item()
    assert after.dead_enemies.item() == 8
    assert after.dead_allies.item() == 0
    assert total == 20


def test_a_death_pays_what_was_left_of_health_and_shield() -> None:
    enemies = [Placed(10, 16, health=2, shield=3, shield_wait=NEVER, cooldown=NEVER), FAR]
    env = battle({"zealot": [Placed(9, 16)]}, {"zealot": enemies}, step_mul=1)
    reward = act(env, ATTACK).reward.item()
    # 8 against a shield of 3: 5 are left, less 1 of armor is 4, more than the health of 2.
    assert reward == pytest.approx((2 + 3 + 10) * 20 / (2 * 160 + 200))
    assert act(env, STOP).reward.item() == 0


def test_enemy_shields_that_grow_pay_too() -> None:
    env = battle({"marine": [Placed(9, 16)]}, {"stalker": [FAR]})
    scale = 20 / (10 + 200 + 160)
    put(env, 1, Placed(30, 30, shield=70))
    assert act(env, STOP).reward.item() == pytest.approx(1 * scale)  # 8 loops of 0.125
    alter(env, 1, shield=79.5)
    assert act(env, STOP).reward.item() == pytest.approx(0.5 * scale)
    assert act(env, STOP).reward.item() == 0


def test_regeneration_and_damage_offset_each_other() -> None:
    enemies = [Placed(12, 16, cooldown=NEVER), Placed(30, 30, shield=10)]
    env = battle({"marine": [Placed(9, 16)]}, {"stalker": enemies})
    scale = 20 / (2 * 170 + 200)
    assert act(env, ATTACK).reward.item() == pytest.approx((6 - 1) * scale)


def test_what_happens_to_allies_costs_nothing_by_default() -> None:
    env = marines(2, Placed(12, 16, target=0))
    assert act(env, STOP, STOP).reward.item() == 0
    assert of(env, "health", 0) + of(env, "health", 1) == 84


def test_with_negative_rewards_damage_and_deaths_of_allies_cost() -> None:
    scale = 20 / (10 + 200 + 45)
    env = marines(2, Placed(12, 16, target=0), reward_only_positive=False)
    alter(env, 1, x=30, y=30)
    assert act(env, STOP, STOP).reward.item() == pytest.approx(-0.5 * 6 * scale)
    alter(env, 0, health=4)
    alter(env, 2, cooldown=0)
    assert act(env, STOP, STOP).reward.item() == pytest.approx(-0.5 * (4 + 10) * scale)
    assert act(env, 0, STOP).reward.item() == 0  # counted once


def test_the_scale_of_negative_rewards_and_the_price_of_defeat() -> None:
    options = {"reward_negative_scale": 0.25, "reward_defeat": -8.0, "reward_death_value": 12.0}
    env = marines(1, Placed(12, 16, target=0), reward_only_positive=False, **options)
    alter(env, 0, health=4)
    after = act(env, STOP)
    assert after.reward.item() == pytest.approx((-0.25 * (4 + 12) - 8) * 20 / (12 + 200 + 45))
    assert after.terminated.item()
    assert not after.battle_won.item()


def test_enemy_regeneration_costs_with_negative_rewards() -> None:
    env = battle({"marine": [FAR]}, {"stalker": [Placed(9, 9)]}, reward_only_positive=False)
    alter(env, 1, shield=70)
    assert act(env, STOP).reward.item() == pytest.approx(-1 * 20 / 370)


def test_rewards_need_not_be_scaled() -> None:
    env = marines(1, Placed(12, 16, health=6, cooldown=NEVER), reward_scale=False)
    assert act(env, ATTACK).reward.item() == 6 + 10 + 200
    env = marines(1, Placed(12, 16, health=6, cooldown=NEVER), reward_scale_rate=51, reward_win=50)
    assert act(env, ATTACK).reward.item() == pytest.approx((6 + 10 + 50) * 51 / (10 + 50 + 45))


@pytest.mark.parametrize(("scaled", "unit"), [(True, 20 / TWO_MARINES), (False, 1.0)])
def test_sparse_rewards_are_scaled_all_the_same(scaled: bool, unit: float) -> None:
    options = {"reward_sparse": True, "reward_scale": scaled}
    enemies = [Placed(12, 16, health=6, cooldown=NEVER), Placed(12, 17, health=6, cooldown=NEVER)]
    env = marines(1, *enemies, **options)
    assert act(env, ATTACK).reward.item() == 0  # a death, but no win yet
    alter(env, 0, cooldown=0)
    assert act(env, ATTACK + 1).reward.item() == pytest.approx(unit)
    env = marines(1, Placed(12, 16, target=0), FAR, **options)
    alter(env, 0, health=6)
    assert act(env, STOP).reward.item() == pytest.approx(-unit)


def test_a_defeat_pays_for_what_was_done() -> None:
    env = marines(1, Placed(12, 16, target=0), FAR)
    alter(env, 0, health=6)
    after = act(env, STOP)
    assert after.terminated.item()
    assert not after.battle_won.item()
    assert (after.reward.item(), after.dead_allies.item(), after.dead_enemies.item()) == (0, 1, 0)


def test_nobody_wins_when_all_are_dead() -> None:
    ours = Placed(9, 16, health=1, shield=0, shield_wait=NEVER)
    theirs = Placed(14, 16, health=1, shield=0, shield_wait=NEVER, looks=(-1, 0), target=0)
    env = battle({"stalker": [ours]}, {"stalker": [theirs]}, step_mul=8)
    after = act(env, ATTACK)  # both missiles are launched in loop 4 and land in loop 8
    assert after.terminated.item()
    assert not after.truncated.item()
    assert not after.battle_won.item()
    assert (after.dead_allies.item(), after.dead_enemies.item()) == (1, 1)
    assert after.reward.item() == pytest.approx((1 + 10) * 20 / 370)  # without the win's 200


@pytest.mark.parametrize("continuing", [False, True])
def test_time_runs_out(continuing: bool) -> None:
    env = marines(1, FAR, limit=3, continuing_episode=continuing)
    assert env.info.episode_limit == 3
    assert env.info.continuing_episode is continuing
    for _ in range(2):
        after = act(env, STOP)
        assert not (after.terminated | after.truncated).item()
    for _ in range(2):  # the second time the battle already stands still
        after = act(env, STOP)
        assert after.truncated.item()
        assert not after.terminated.item()
        assert not after.battle_won.item()
        assert after.reward.item() == 0
    env.reset()
    assert not act(env, STOP).truncated.item()


def test_the_time_of_a_battle_that_has_ended_stands_still() -> None:
    enemy = Placed(12, 16, health=6, cooldown=NEVER)
    env = marines(1, enemy, limit=10, state_timestep_number=True)
    for _ in range(2):
        after = act(env, ATTACK)
        assert after.terminated.item()
        assert after.observation.state[0, -1].item() == pytest.approx(1 / 10)


def test_a_battle_decided_in_its_last_step_has_not_run_out_of_time() -> None:
    env = marines(1, Placed(12, 16, health=6, cooldown=NEVER), limit=1)
    after = act(env, ATTACK)
    assert after.terminated.item()
    assert after.battle_won.item()
    assert not after.truncated.item()


def ends(ours: str, theirs: str, alive: str) -> int:
    """The ending of teams such as "marine medivac" when a unit is 1 (alive) or 0 in `alive`."""
    allies, enemies = ours.split(), theirs.split()
    units = [unit_types()[kind] for kind in allies + enemies]
    health = torch.tensor([[float(word)] for word in alive.split()])
    return int(Ending(units, len(allies), torch.device("cpu"))(health)[0])


@pytest.mark.parametrize(
    ("alive", "code"),
    [
        ("1 1 1  1 1 1", UNDECIDED),
        ("0 1 1  1 1 1", UNDECIDED),
        ("0 0 1  1 1 1", LOST),  # a medivac alone is no army
        ("0 0 1  0 0 0", LOST),  # even with nobody left to fight
        ("0 0 1  0 0 1", LOST),
        ("0 0 0  1 0 0", LOST),
        ("0 0 0  0 0 0", LOST),  # and when all are dead
        ("1 0 0  0 0 0", WON),
        ("0 1 1  0 0 1", WON),  # the last enemy is a medivac
        ("1 1 1  0 1 0", UNDECIDED),  # the last enemy is none
        ("1 1 1  0 1 1", UNDECIDED),
    ],
)
def test_where_medivacs_heal_they_do_not_count_as_fighters(alive: str, code: int) -> None:
    assert ends("marauder marine medivac", "marauder marine medivac", alive) == code


def test_two_medivacs_left_are_not_one() -> None:
    teams = ("marine medivac", "marine medivac medivac")
    assert ends(*teams, "1 1  0 1 1") == UNDECIDED
    assert ends(*teams, "1 1  0 0 1") == WON


@pytest.mark.parametrize(
    ("alive", "code"), [("1 1", UNDECIDED), ("1 0", WON), ("0 1", LOST), ("0 0", DRAWN)]
)
def test_endings_without_healers(alive: str, code: int) -> None:
    assert ends("marine", "marine", alive) == code


def test_a_win_over_a_last_medivac_pays_as_any_other() -> None:
    ours = {"marine": [Placed(9, 16)], "medivac": [Placed(3, 16)]}
    theirs = {"marine": [Placed(12, 16, health=6, cooldown=NEVER)], "medivac": [FAR]}
    env = battle(ours, theirs)
    after = act(env, ATTACK, STOP)
    assert after.terminated.item()
    assert after.battle_won.item()
    assert after.dead_enemies.item() == 1
    points = 2 * 10 + 200 + 45 + 150
    assert after.reward.item() == pytest.approx((6 + 10 + 200) * 20 / points)


def test_a_medivac_left_alone_has_lost() -> None:
    ours = {"marine": [Placed(9, 16)], "medivac": [Placed(3, 16)]}
    env = battle(ours, {"marine": [FAR], "medivac": [FAR]}, reward_defeat=-5.0)
    alter(env, 0, health=0)
    after = act(env, 0, STOP)
    assert after.terminated.item()
    assert not after.battle_won.item()
    assert after.reward.item() == pytest.approx(-5 * 20 / 415)


def rewarded(before: Sequence[float], after: Sequence[float], **options: Any) -> float:
    """The points, not scaled, of a step that brings one ally's and one enemy's health and shield
    (each a zealot's) from one to the other."""
    chosen = SkirmishOptions(reward_scale=False, **options)
    units = [unit_types()["zealot"]] * 2
    health, shield, healed, shielded = (
        torch.tensor([[values[i]], [values[i + 2]]]) for values in (before, after) for i in (0, 1)
    )
    code = Ending(units, 1, torch.device("cpu"))(healed)
    return float(Reward(chosen, 1, 0.0)(health, shield, healed, shielded, code)[0])


def test_healing_is_damage_with_the_other_sign() -> None:
    healed = ([50, 10, 60, 20], [59, 12, 61, 25])  # ours regain 11, theirs 6
    assert rewarded(*healed) == 6
    assert rewarded(*healed, reward_only_positive=False) == -6 + 0.5 * 11


def test_a_death_after_healing_pays_what_there_was_before_the_step() -> None:
    died = ([50, 10, 60, 20], [50, 10, 0, 35])  # the dead keep a shield that nobody counts
    assert rewarded(*died) == 60 + 20 + 10 + 200
    gone = ([50, 10, 60, 20], [0, 10, 60, 20])
    assert rewarded(*gone) == 0
    assert rewarded(*gone, reward_only_positive=False) == -0.5 * (60 + 10)


def test_mutual_death_pays_no_win_and_no_defeat() -> None:
    both = ([50, 10, 60, 20], [0, 10, 0, 20])
    assert rewarded(*both, reward_defeat=-7.0) == 60 + 20 + 10
    signed = rewarded(*both, reward_defeat=-7.0, reward_only_positive=False)
    assert signed == 60 + 20 + 10 - 0.5 * (50 + 10 + 10)
    assert rewarded(*both, reward_sparse=True) == 0


@pytest.mark.parametrize("name", reference.MAPS)
def test_steps_between_any_states_pay_what_the_reference_says(name: str) -> None:
    scenario = load_scenario(name)
    units = in_agent_order(scenario) + scenario.enemy_units
    n, battles = len(scenario.ally_units), 40
    draws = torch.Generator().manual_seed(31)
    most = torch.tensor([[unit.health, unit.shield] for unit in units])

    def state(shares: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, battles] health and shields; a share of each side's units lives."""
        drawn = torch.rand(len(units), 2, battles, generator=draws) * most[:, :, None]
        health, shield = ((drawn * 8).round() / 8).unbind(1)
        share = torch.tensor(shares)[torch.randint(len(shares), (2, battles), generator=draws)]
        living = torch.rand(len(units), battles, generator=draws)
        enough = torch.cat((share[:1].expand(n, -1), share[1:].expand(len(units) - n, -1)))
        return torch.where(living < enough, health.clamp_min(1), 0.0), shield

    (health, shield), (healed, shielded) = state([1.0, 0.7]), state([1.0, 0.5, 0.1, 0.0])
    healed = torch.where(health > 0, healed, 0.0)  # nobody rises again
    code = Ending(units, n, torch.device("cpu"))(healed)
    before, after = (
        [_as_battle(name, h[:, b].tolist(), s[:, b].tolist()) for b in range(battles)]
        for h, s in ((health, shield), (healed, shielded))
    )
    codes = {UNDECIDED: None, WON: 1, LOST: -1, DRAWN: 0}
    assert [codes[c] for c in code.tolist()] == [reference.ending(battle) for battle in after]
    for signed, sparse in ((False, False), (True, False), (True, True)):
        options = SkirmishOptions(reward_only_positive=not signed, reward_sparse=sparse)
        paid = Reward(options, n, max_reward(scenario, options))
        expected = [
            reference.reward(*steps, signed, sparse) for steps in zip(before, after, strict=True)
        ]
        got = paid(health, shield, healed, shielded, code).tolist()
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-5)


def _as_battle(name: str, health: list[float], shield: list[float]) -> reference.Battle:
    ours, theirs = (reference.team(counts) for counts in reference.MAPS[name][:2])
    units = [
        reference.Unit(kind, 0.0, 0.0, h, s, 0.0, 0.0)
        for kind, h, s in zip(ours + theirs, health, shield, strict=True)
    ]
    return reference.Battle(name, units[: len(ours)], units[len(ours) :])
