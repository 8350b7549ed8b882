"""A game made for tests: battle `n` lasts 1 + 3n mod 5 steps, and its numbers can be foretold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from training.envs.base import UnavailableActionError
from training.types import EnvInfo, Observation, Transition

N_AGENTS, N_ACTIONS, EPISODE_LIMIT = 2, 3, 5


def length_of(battle_id: int) -> int:
    return 1 + 3 * battle_id % EPISODE_LIMIT


class CountingEnv:
    """Observes [battle, step, agent]; the state is [battle, step]. Action 0 is always available,
    action 1 at even steps, action 2 at odd ones. A step pays `scale` times its battle's number plus
    the sum of the actions. A battle of `EPISODE_LIMIT` steps times out, a shorter one of an odd
    number is won."""

    def __init__(self, n_envs: int, continuing: bool = False, scale: float = 1.0) -> None:
        self.info = EnvInfo(
            name="counting",
            map_name="counting",
            n_agents=N_AGENTS,
            n_enemies=0,
            n_actions=N_ACTIONS,
            obs_dim=3,
            state_dim=2,
            episode_limit=EPISODE_LIMIT,
            unit_types=("counter",) * N_AGENTS,
            continuing_episode=continuing,
            layout_sha256="0" * 64,
        )
        self.n_envs, self.device, self._scale = n_envs, torch.device("cpu"), scale
        self._ids = torch.zeros(n_envs, dtype=torch.int64)
        self._steps = torch.zeros(n_envs, dtype=torch.int64)

    def reset(
        self, mask: torch.Tensor | None = None, battle_ids: torch.Tensor | None = None
    ) -> Observation:
        assert mask is not None
        assert battle_ids is not None
        self._ids = torch.where(mask, battle_ids, self._ids)
        self._steps = torch.where(mask, 0, self._steps)
        return self._observe()

    def step(self, actions: torch.Tensor) -> Transition:
        over = self._over()
        wrong = ~self._available().gather(2, actions[:, :, None])[:, :, 0] & ~over[:, None]
        if wrong.any():
            slot, agent = wrong.nonzero()[0].tolist()
            raise UnavailableActionError(int(self._ids[slot]), agent, int(actions[slot, agent]))
        self._steps = torch.where(over, self._steps, self._steps + 1)
        ended = self._over()
        timed_out = ended & (self._steps == EPISODE_LIMIT)
        reward = torch.where(over, 0.0, self._scale * self._ids + actions.sum(1))
        return Transition(
            observation=self._observe(),
            reward=reward.float(),
            terminated=ended & ~timed_out,
            truncated=timed_out,
            battle_won=ended & ~timed_out & ~over & (self._ids % 2 == 1),
            dead_allies=self._ids % 3,
            dead_enemies=self._steps,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"ids": self._ids.clone(), "steps": self._steps.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._ids, self._steps = state["ids"].clone(), state["steps"].clone()

    def _over(self) -> torch.Tensor:
        return self._steps >= 1 + 3 * self._ids % EPISODE_LIMIT

    def _available(self) -> torch.Tensor:
        odd = (self._steps % 2 == 1)[:, None, None].expand(-1, N_AGENTS, 1)
        return torch.cat([torch.ones_like(odd), ~odd, odd], dim=2)

    def _observe(self) -> Observation:
        state = torch.stack([self._ids, self._steps], dim=1).float()
        agents = torch.arange(N_AGENTS).expand(self.n_envs, -1)[:, :, None]
        obs = torch.cat([state[:, None].expand(-1, N_AGENTS, -1), agents], dim=2)
        return Observation(obs, state, self._available())
