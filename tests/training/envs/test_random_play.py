"""Random battles: whatever the agents do, the units obey the ground and their own bounds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.training.envs.battlefield import GRAIN, random_actions, see
from training.envs.skirmish.env import SkirmishEnv

#             map, battles, steps at most
BATTLES = [("3m", 16, 60), ("3s5z", 16, 80), ("3s_vs_5z", 12, 80), ("2m_vs_1z", 8, 80)]
BATTLES += [("27m_vs_30m", 3, 45)]


@pytest.mark.parametrize(("name", "n_envs", "steps"), BATTLES)
def test_random_battles_keep_within_their_bounds(name: str, n_envs: int, steps: int) -> None:
    env = SkirmishEnv(name, n_envs, seed=17)
    n = env.info.n_agents
    draws = torch.Generator().manual_seed(4)
    shown = env.reset()
    dead = np.zeros((n_envs, n + env.info.n_enemies), dtype=bool)
    moved, deaths = False, 0
    for _ in range(steps):
        before = see(env, "x")
        after = env.step(random_actions(shown.avail_actions, draws))
        shown = after.observation
        assert shown.avail_actions.any(2).all()
        assert shown.obs.isfinite().all()
        assert shown.state.isfinite().all()
        assert (after.reward >= 0).all()
        _check_places(env)
        _check_bodies(env)
        now = see(env, "health") <= 0
        assert (now | ~dead).all()  # nobody rises again
        dead = now
        assert (shown.avail_actions[:, :, 0].numpy() == dead[:, :n]).all()
        assert (after.dead_allies.numpy() == dead[:, :n].sum(1)).all()
        assert (after.dead_enemies.numpy() == dead[:, n:].sum(1)).all()
        moved, deaths = moved or bool((see(env, "x") != before).any()), int(dead.sum())
    assert moved
    assert deaths > 0


def _check_places(env: SkirmishEnv) -> None:
    x, y = see(env, "x"), see(env, "y")
    for places in (x, y):
        assert (places * GRAIN % 1 == 0).all()
        assert ((places >= 0) & (places < 32)).all()
    assert env.scenario.terrain.pathable[x.astype(int), y.astype(int)].all()


def _check_bodies(env: SkirmishEnv) -> None:
    allies = sorted(env.scenario.ally_units, key=lambda u: env.scenario.ally_types.index(u.name))
    units = allies + env.scenario.enemy_units
    for what in ("health", "shield"):
        values = see(env, what)
        most = np.array([getattr(unit, what) for unit in units])
        assert ((values >= 0) & (values <= most)).all()
        assert (values * 8 % 1 == 0).all()  # what float32 adds exactly in any order
    assert (see(env, "cooldown") >= 0).all()


def overlaps(env: SkirmishEnv) -> npt.NDArray[np.float64]:
    """[E, N, N] how much closer two living units stand than their separation radii allow."""
    allies = sorted(env.scenario.ally_units, key=lambda u: env.scenario.ally_types.index(u.name))
    radius = np.array([u.separation_radius for u in allies + env.scenario.enemy_units])
    x, y, alive = see(env, "x"), see(env, "y"), see(env, "health") > 0
    distance = np.hypot(x[:, :, None] - x[:, None], y[:, :, None] - y[:, None])
    both = alive[:, :, None] & alive[:, None] & ~np.eye(len(radius), dtype=bool)
    return np.where(both, radius[:, None] + radius - distance, 0.0)


# Bodies lie up to 0.06 in each other undisturbed. Deeper overlaps are pushed out after every step,
# whole for two units alone; in a crowd, who is pushed out of one circle may land in another's, and
# is pushed on in the next loop.
@pytest.mark.parametrize("heuristic_ai", [True, False])
@pytest.mark.parametrize(("name", "tolerance"), [("3m", 0.2), ("5m_vs_6m", 0.3), ("3s5z", 0.3)])
def test_units_hardly_overlap(name: str, tolerance: float, heuristic_ai: bool) -> None:
    env = SkirmishEnv(name, 8, seed=2, heuristic_ai=heuristic_ai)
    observation = env.reset()
    generator = torch.Generator().manual_seed(3)
    for _ in range(30):
        assert overlaps(env).max() <= tolerance
        weights = observation.avail_actions.flatten(0, 1).float()
        actions = torch.multinomial(weights, 1, generator=generator).view(8, -1)
        observation = env.step(actions).observation
