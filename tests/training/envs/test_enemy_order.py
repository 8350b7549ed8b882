"""Which enemy is enemy e: the same one in observations, states, masks and attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.training.envs import conformance
from tests.training.envs.battlefield import ATTACK, NEVER, STOP, Placed, act, battle, scatter, see
from tests.training.envs.conformance import Build
from training.algorithms.heuristic import ClosestEnemy
from training.envs.skirmish.env import SkirmishEnv

CHECKS = [
    conformance.check_unavailable_actions,
    conformance.check_a_reset_touches_only_its_slots,
    conformance.check_a_battle_is_the_same_anywhere,
    conformance.check_a_saved_state_goes_on,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("order", ["shuffled", "sorted"])
def test_the_protocol_holds_in_any_order(order: str, check: Callable[[Build], None]) -> None:
    check(lambda n_envs, seed: SkirmishEnv("3m", n_envs, seed=seed, enemy_order=order))


def enemy_rows(env: SkirmishEnv, state: torch.Tensor) -> npt.NDArray[np.float32]:
    """[E, k, F] the enemies' part of the state."""
    columns = [i for i, f in enumerate(env.features.layout.state) if f.startswith("enemy_")]
    return state[:, columns].reshape(env.n_envs, env.info.n_enemies, -1).numpy()


def permutations(name: str, order: str, n_envs: int, seed: int = 3) -> npt.NDArray[np.int64]:
    """[E, k] the enemy, by creation, that each battle shows as each; found by where they stand."""
    created, listed = (
        SkirmishEnv(name, n_envs, seed=seed, enemy_order=o) for o in ("creation", order)
    )
    at, now_at = (enemy_rows(env, env.reset().state) for env in (created, listed))
    same = (now_at[:, :, None] == at[:, None]).all(3)
    assert (same.sum(2) == 1).all()
    return np.asarray(same.argmax(2))


def test_each_battle_has_its_own_order_and_all_of_them_occur() -> None:
    orders = permutations("3m", "shuffled", 300)
    assert (np.sort(orders, 1) == np.arange(3)).all()
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert counts.min() > 300 / 6 / 2


def test_a_battles_order_depends_on_nothing_but_its_number_and_seed() -> None:
    many = permutations("3s5z", "shuffled", 5)
    assert np.array_equal(permutations("3s5z", "shuffled", 1), many[:1])
    assert not np.array_equal(permutations("3s5z", "shuffled", 5, seed=4), many)
    env = SkirmishEnv("3s5z", 3, seed=3, enemy_order="shuffled")
    fresh = SkirmishEnv("3s5z", 5, seed=3, enemy_order="shuffled").reset().state
    state = env.reset(torch.tensor([False, True, True]), torch.tensor([0, 4, 2])).state
    assert torch.equal(state[1:], fresh[[4, 2]])


@pytest.mark.parametrize("name", ["3s5z", "5m_vs_6m", "MMM2"])
def test_everything_shown_of_an_enemy_moves_with_it(name: str) -> None:
    created, shuffled = (
        SkirmishEnv(name, 6, seed=3, obs_last_action=True, enemy_order=order)
        for order in ("creation", "shuffled")
    )
    order = permutations(name, "shuffled", 6)
    before = scatter(created, torch.Generator().manual_seed(8))
    after = scatter(shuffled, torch.Generator().manual_seed(8))
    n, k = created.info.n_agents, created.info.n_enemies
    enemies = [i for i, f in enumerate(created.features.layout.obs) if f.startswith("enemy_")]
    fighters = np.array([kind != "medivac" for kind in created.info.unit_types])
    for slot, listed in enumerate(order):
        assert np.array_equal(
            enemy_rows(shuffled, after.state)[slot], enemy_rows(created, before.state)[slot][listed]
        )
        attacks, attacks_now = (o.avail_actions[slot, :, 6:].numpy() for o in (before, after))
        assert np.array_equal(attacks_now[fighters], attacks[fighters][:, listed])
        assert np.array_equal(attacks_now[~fighters], attacks[~fighters])  # they number agents
        blocks, blocks_now = (
            o.obs[slot, :, enemies].numpy().reshape(n, k, -1) for o in (before, after)
        )
        assert np.array_equal(blocks_now[fighters], blocks[fighters][:, listed])
        assert np.array_equal(blocks_now[:, :, 1:], blocks[:, listed, 1:])
    rest = [i for i, f in enumerate(created.features.layout.obs) if not f.startswith("enemy_")]
    assert torch.equal(after.obs[:, :, rest], before.obs[:, :, rest])


def test_an_attack_hurts_the_enemy_shown_under_its_number() -> None:
    places = [Placed(18, 16), Placed(16, 18), Placed(14, 16)]
    enemies = [place._replace(cooldown=NEVER) for place in places]
    env = battle(
        {"marine": [Placed(16, 16)]}, {"marine": enemies}, n_envs=12, enemy_order="shuffled"
    )
    after = act(env, ATTACK + 1)
    health = enemy_rows(env, after.observation.state)[:, :, 0]
    assert np.array_equal(health, np.tile(np.array([1, 39 / 45, 1], dtype=np.float32), (12, 1)))
    hurt = see(env, "health")[:, 1:].argmin(1)
    assert set(hurt.tolist()) == {0, 1, 2}  # by creation it is now this one, now that one
    assert after.observation.state[:, -9:].tolist() == [[0] * 7 + [1, 0]] * 12


def uneven(order: str, **options: Any) -> SkirmishEnv:
    """A battle in which no two enemies are equally far from anybody."""
    ours = {"marine": [Placed(9, 16), Placed(8.5, 18.25), Placed(9, 13.125, health=20)]}
    theirs = {"marine": [Placed(17, 12), Placed(15, 17.5), Placed(18, 20.25), Placed(16, 8.125)]}
    ours["medivac"], theirs["medivac"] = [Placed(6, 16.5)], [Placed(20, 15.75)]
    return battle(ours, theirs, n_envs=4, enemy_order=order, **options)


@pytest.mark.parametrize("smacs_own", [True, False])
def test_scripted_players_fight_the_same_battle_in_any_order(smacs_own: bool) -> None:
    created, shuffled = (
        uneven(order, heuristic_ai=smacs_own) for order in ("creation", "shuffled")
    )
    players = [ClosestEnemy(env) for env in (created, shuffled)]
    actions = [torch.tensor([[STOP] * 4] * 4)] * 2
    shown = [env.put(env.world) for env in (created, shuffled)]
    for _ in range(12):
        if not smacs_own:
            actions = [player.act(o) for player, o in zip(players, shown, strict=True)]
        shown = [
            env.step(a).observation for env, a in zip((created, shuffled), actions, strict=True)
        ]
        for what in ("x", "y", "health", "energy"):
            assert np.array_equal(see(created, what), see(shuffled, what))
    assert (see(created, "health")[:, 4:8] < 45).any()


def test_heals_are_given_to_the_agent_of_that_number() -> None:
    created, shuffled = uneven("creation"), uneven("shuffled")
    for _ in range(4):
        for env in (created, shuffled):
            act(env, STOP, STOP, STOP, ATTACK + 2)
        for what in ("x", "y", "health"):
            assert np.array_equal(see(created, what), see(shuffled, what))
    assert (see(shuffled, "health")[:, 2] > 20).all()


def test_sorted_enemies_are_numbered_as_smac_numbers_agents() -> None:
    env = SkirmishEnv("3s5z", 4, enemy_order="sorted")
    for rows in enemy_rows(env, env.reset().state):
        assert rows[:, 4].tolist() == [1] * 5 + [0] * 3  # a zealot is type 73, a stalker 74
        for kind in (rows[:5], rows[5:]):
            places = [(float(x), float(y)) for x, y in kind[:, 1:3]]
            assert places == sorted(places)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("MMM2", [1] * 8 + [0] * 3 + [2]),  # marines, marauders, the medivac: 48, 51, 54
        ("1c3s5z", [0] + [2] * 5 + [1] * 3),  # the colossus, zealots, stalkers: 4, 73, 74
        ("bane_vs_bane", [0] * 4 + [1] * 20),  # banelings, zerglings: 9, 105
    ],
)
def test_the_games_numbers_of_types_sort_first(name: str, kinds: list[int]) -> None:
    env = SkirmishEnv(name, 1, enemy_order="sorted")
    types = len(env.scenario.enemy_types)
    assert enemy_rows(env, env.reset().state)[0, :, -types:].argmax(1).tolist() == kinds


def test_the_order_of_creation_is_kept_nowhere() -> None:
    assert "enemy_index" not in SkirmishEnv("3m", 1).state_dict()
    assert "enemy_index" in SkirmishEnv("3m", 1, enemy_order="shuffled").state_dict()
