"""A small environment's sizes, and made-up episodes of it."""

from __future__ import annotations

import numpy as np

from training.replay import ReplayBuffer, replay_size
from training.types import EnvInfo, Episode, EpisodeBatch


def small_info(episode_limit: int = 12) -> EnvInfo:
    return EnvInfo(
        name="made_up",
        map_name="small",
        n_agents=3,
        n_enemies=2,
        n_actions=5,
        obs_dim=6,
        state_dim=7,
        episode_limit=episode_limit,
        unit_types=("marine", "marine", "marine"),
        continuing_episode=False,
        layout_sha256="0" * 64,
    )


def make_episode(
    info: EnvInfo,
    length: int,
    rng: np.random.Generator,
    battle_id: int = 0,
    terminal: bool = True,
) -> Episode:
    """An episode of random numbers whose actions were all available."""
    n_obs, a, u = length + 1, info.n_agents, info.n_actions
    actions = rng.integers(0, u, (length, a)).astype(np.uint8)
    avail_actions = rng.random((n_obs, a, u)) < 0.5
    np.put_along_axis(avail_actions[:-1], actions[:, :, None].astype(np.int64), True, 2)
    avail_actions[-1, :, 0] = True
    return Episode(
        battle_id=battle_id,
        obs=rng.standard_normal((n_obs, a, info.obs_dim)).astype(np.float16),
        state=rng.standard_normal((n_obs, info.state_dim)).astype(np.float16),
        avail_actions=avail_actions,
        actions=actions,
        reward=rng.standard_normal(length).astype(np.float32),
        terminal=terminal,
        battle_won=False,
        dead_allies=0,
        dead_enemies=0,
    )


def make_batch(lengths: tuple[int, ...], seed: int = 0) -> EpisodeBatch:
    """Episodes of these lengths; every third ends by running out of time, and bootstraps."""
    rng = np.random.default_rng(seed)
    info = small_info()
    buffer = ReplayBuffer(info, replay_size(info, len(lengths)), rng)
    buffer.add(
        make_episode(info, length, rng, terminal=i % 3 != 2) for i, length in enumerate(lengths)
    )
    return buffer.gather(np.arange(len(lengths)))
