"""Banelings: bursts, who is hit by them, and chains of them.

What the numbers follow from: a burst does 20, and 35 to the light, to all ground enemies whose
edge is within 2.2 of the baneling's own place; it costs the baneling its life, and its death by
others' hands sets it off as well. It rolls up to 0.25, edge to edge; with damage point 0 it bursts
in the loop in which it is there.
    radii     baneling, zergling, marine 0.375, marauder 0.5625, zealot 0.5, stalker 0.625
    light     marine, zealot, zergling; not marauder, stalker, baneling
    armor     zealot, marauder, stalker 1
"""

from __future__ import annotations

import pytest
import torch

from tests.training.envs.battlefield import (
    ATTACK,
    GRAIN,
    NEVER,
    STOP,
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
FURTHER = Placed(1, 30)
WEST = (-1.0, 0.0)
REGENERATION = 70 / 4096


@pytest.mark.parametrize(
    ("kind", "shield", "left"),
    [
        ("marine", 0, (0, 10)),
        ("zergling", 0, (0, 0)),  # 35 are all it has
        ("baneling", 0, (0, 10)),
        ("marauder", 0, (0, 106)),  # 20 - 1
        ("zealot", 50, (15, 100)),
        ("zealot", 20, (0, 86)),  # 20 on the shield, 15 - 1
        ("zealot", 34.5, (0, 99.5)),  # 0.5 at least
        ("zealot", 0, (0, 66)),  # 35 - 1
        ("stalker", 80, (60, 80)),
        ("stalker", 5, (0, 66)),  # 15 - 1
    ],
)
def test_what_a_burst_does_to_whom(kind: str, shield: float, left: tuple[float, float]) -> None:
    # 0.9375 is in range of them all: 0.25 + 0.375 + 0.375 for the smallest.
    enemy = Placed(9.9375, 16, shield=shield, shield_wait=NEVER, cooldown=NEVER)
    env = battle({"baneling": [Placed(9, 16)]}, {kind: [enemy, FAR]}, step_mul=1)
    command(env, ATTACK)
    assert of(env, "health", 0) == 0
    assert (of(env, "shield", 1), of(env, "health", 1)) == left


def test_two_bursts_in_one_loop_are_two_hits() -> None:
    # 35 on the shield, 15 of the next 35; then 20 - 1. Or both on health: twice 35 - 1.
    for shield, left in ((50, 81), (0, 32)):
        ours = [Placed(9, 15.5), Placed(9, 16.5)]
        enemy = Placed(9.9375, 16, WEST, shield=shield, shield_wait=NEVER, cooldown=NEVER)
        env = battle({"baneling": ours}, {"zealot": [enemy]}, step_mul=1)
        command(env, ATTACK, ATTACK)
        assert see(env, "health")[0].tolist() == [0, 0, left], shield
        assert of(env, "shield", 2) == 0


@pytest.mark.parametrize(
    ("distance", "hit"),
    # 2.2 + 0.375 = 2.575 from the baneling, not from its target.
    [(2.5625, True), (2.578125, False)],
)
@pytest.mark.parametrize("way", [(1, 0), (-1, 0), (0, 1), (0.6, -0.8)])
def test_a_burst_reaches_2_2_and_the_targets_radius(
    way: tuple[float, float], distance: float, hit: bool
) -> None:
    other = Placed(16 + way[0] * distance, 16 + way[1] * distance, cooldown=NEVER)
    target = Placed(16, 15.0625, cooldown=NEVER)
    looks = (0.0, -1.0)
    env = battle({"baneling": [Placed(16, 16, looks)]}, {"marine": [target, other]}, step_mul=1)
    command(env, ATTACK)
    assert (of(env, "health", 1), of(env, "health", 2)) == (10, 10 if hit else 45)


@pytest.mark.parametrize("kind", ["marine", "zealot"])
def test_a_baneling_bursts_at_0_25(kind: str) -> None:
    radius = {"marine": 0.375, "zealot": 0.5}[kind]
    reach = 0.25 + 0.375 + radius
    for beyond, bursts in ((0.0, True), (1 / GRAIN, False)):
        target = Placed(9 + reach + beyond, 16, cooldown=NEVER)
        env = battle({"baneling": [Placed(9, 16)]}, {kind: [target]}, step_mul=1)
        command(env, ATTACK)
        assert (of(env, "health", 0) == 0) is bursts
        command(env, ATTACK)
        assert of(env, "health", 0) == 0


def test_friends_and_who_flies_are_spared() -> None:
    allies = {"baneling": [Placed(9, 16)], "zergling": [Placed(9, 16.75), Placed(8.25, 16)]}
    enemies = {"marine": [Placed(9.9375, 16, cooldown=NEVER)], "medivac": [Placed(9, 17)]}
    env = battle(allies, enemies, step_mul=1)
    alter(env, 4, energy=0.0, order=0)
    command(env, ATTACK, STOP, STOP)
    assert see(env, "health")[0, :3].tolist() == [0, 35, 35]
    assert of(env, "health", 3) == pytest.approx(10, abs=0.2)  # the medivac has begun
    assert of(env, "health", 4) == 150


def test_a_baneling_that_is_shot_bursts_where_it_is() -> None:
    # 6 health are one shot, which lands in loop 2. The enemy rolls toward its target, 2.5 away,
    # for two loops, and does not burst by itself.
    allies = [Placed(9, 16), Placed(14.5, 16), Placed(12, 13.25)]
    rolls = Placed(12, 16, cooldown=NEVER, target=1)
    env = battle({"marine": allies}, {"baneling": [rolls, FAR]}, step_mul=1)
    alter(env, 3, health=6 - 2 * REGENERATION)
    command(env, ATTACK, STOP, STOP)
    assert of(env, "health", 3) == 6 - REGENERATION
    assert of(env, "x", 3) == pytest.approx(12 + 2.5 / 16, abs=1 / GRAIN)
    command(env, ATTACK, STOP, STOP)
    assert of(env, "health", 3) == 0
    # The shooter is 3.3 away, the third 2.77: beyond 2.575.
    assert see(env, "health")[0, :3].tolist() == [45, 10, 45]


def test_a_baneling_killed_on_its_way_never_bursts_again() -> None:
    allies = [Placed(9, 16), Placed(14.5, 16)]
    env = battle(
        {"marine": allies}, {"baneling": [Placed(12, 16, cooldown=NEVER), FAR]}, step_mul=1
    )
    alter(env, 2, health=1)
    command(env, ATTACK, STOP, loops=40)
    assert see(env, "health")[0, :3].tolist() == [45, 10, 0]


@pytest.mark.parametrize("health", [20, 21])
def test_a_chain_goes_on_while_bursts_kill(health: float) -> None:
    """Ours and theirs 2 apart in a row, so that each burst reaches its neighbours alone.

    Ours 0 bursts at theirs 2, which stands behind it, and kills it and theirs 0 on its other side;
    theirs 0 kills ours 1 if 20 are enough, and that theirs 1.
    """
    ours = [Placed(10, 16, WEST), Placed(14, 16, cooldown=NEVER, health=health), FAR]
    theirs = [
        Placed(12, 16, cooldown=NEVER, health=19),
        Placed(16, 16, cooldown=NEVER, health=19),
        Placed(9.0625, 16, cooldown=NEVER, health=19),
        FURTHER,
    ]
    env = battle({"baneling": ours}, {"baneling": theirs}, step_mul=1)
    alter(env, 1, health=health - REGENERATION)
    command(env, ATTACK + 2, STOP, STOP)
    left = see(env, "health")[0]
    assert left[[0, 3, 5]].tolist() == [0, 0, 0]
    assert left[[2, 6]].tolist() == [30, 30]
    if health == 20:
        assert left[[1, 4]].tolist() == [0, 0]
    else:
        assert left[[1, 4]].tolist() == [1, 19 + REGENERATION]


def test_a_chain_of_every_round_there_can_be() -> None:
    """Four against four in a row, one setting off the next: eight rounds in a single loop."""
    row = [Placed(8 + 2 * i, 16, WEST, cooldown=NEVER, health=19) for i in range(8)]
    marked = Placed(7.0625, 16, cooldown=NEVER, health=1)  # beside the first, to be rolled up to
    ours = [row[0]._replace(cooldown=0), row[2], row[4], row[6]]
    env = battle(
        {"baneling": ours}, {"baneling": [row[1], row[3], row[5], row[7], marked]}, step_mul=1
    )
    after = act(env, ATTACK + 4, STOP, STOP, STOP)
    assert see(env, "health")[0].tolist() == [0] * 9
    assert after.terminated.item()
    assert not after.battle_won.item()  # nobody is left to have won
    # Five deaths, and the health that the enemies had: 19 each and 1, a loop's growth included.
    gained = 5 * 10 + 4 * 19 + 1
    assert after.reward.item() == pytest.approx(gained * 20 / (5 * 10 + 200 + 5 * 30), rel=1e-6)


def test_a_suicide_pays_a_death_and_the_health_it_had() -> None:
    # Theirs bursts in the first loop; 10 for the death, and all of its health.
    for health in (30, 12):
        enemies = [Placed(10.0625, 16, WEST, health=health, target=0), FAR]
        env = battle({"zealot": [Placed(9, 16)]}, {"baneling": enemies}, step_mul=1)
        after = act(env, STOP)
        assert of(env, "shield", 0) == 15
        assert after.dead_enemies.item() == 1
        assert after.reward.item() == pytest.approx((10 + health) * 20 / (20 + 200 + 60))


def test_a_burst_stops_shields_from_regenerating() -> None:
    ours = [Placed(9, 16, shield=20)]
    theirs = [Placed(10.0625, 16, WEST, target=0), FAR]
    env = battle({"zealot": ours}, {"baneling": theirs}, step_mul=1)
    command(env, STOP)
    health = of(env, "health", 0)
    assert health == 100 - (35 - 20.125 - 1)  # a loop of regeneration came first
    command(env, STOP, loops=160)
    assert of(env, "shield", 0) == 0.125


def test_banelings_roll_into_zealots_by_themselves() -> None:
    """so_many_baneling: seven zealots that stand still meet their end."""
    env = SkirmishEnv("so_many_baneling", 4, seed=3)
    for _ in range(30):
        before = see(env, "health")
        if (before[:, :7] <= 0).all():
            break
        alive = torch.as_tensor(before[:, :7] > 0)
        env.step(torch.where(alive, STOP, 0))
    assert (see(env, "health")[:, :7] <= 0).all()
    # 50 of shields and 100 of health are five bursts of 35 less armor, on a crowd at once.
    bursts = (see(env, "health")[:, 7:] <= 0).sum(1)
    assert ((bursts >= 5) & (bursts < 32)).all()


def test_who_was_dead_before_the_loop_does_not_burst() -> None:
    env = battle({"marine": [Placed(9, 16)]}, {"baneling": [Placed(10, 16), FAR]}, step_mul=1)
    alter(env, 1, health=0)
    command(env, STOP, loops=4)
    assert of(env, "health", 0) == 45
    put(env, 1, Placed(9, 17))
    command(env, STOP)
    assert of(env, "health", 0) == 45
