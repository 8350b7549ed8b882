"""The two-step cooperative game of the QMIX paper (Rashid et al., ICML 2018, section 5).

Two agents, two actions each, two steps. In the first state the first agent alone chooses where
the team goes; its partner's action is ignored and the reward is 0. The second step pays:

    2A   7 whatever the team does          2B   0 1    rows: first agent's action,
                                                1 8    columns: second agent's

The best return is 8, by way of 2B. A team whose values must add up (VDN) prefers the safe 7, and
one that mixes them monotonically (QMIX) finds the 8: a check of a learner that takes seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from training.envs.base import UnavailableActionError
from training.types import EnvInfo, Observation, Transition

N_AGENTS, N_ACTIONS, EPISODE_LIMIT = 2, 2, 2
FIRST, SECOND_A, SECOND_B, OVER = range(4)
STATE_FEATURES = ("state_1", "state_2a", "state_2b")
PAYOFF_2A = ((7.0, 7.0), (7.0, 7.0))
PAYOFF_2B = ((0.0, 1.0), (1.0, 8.0))
BEST_RETURN = 8.0


class TwoStepEnv:
    """E games side by side; every agent sees the full state as a one-hot of three.

    After the second step the observation is all zeros. The game draws nothing at random, so the
    seed changes nothing. A battle counts as won when it pays the best return.
    """

    def __init__(
        self,
        map_name: str | None = None,
        n_envs: int = 1,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if map_name not in (None, "two_step"):
            raise ValueError(f"the two-step game has one map, 'two_step'; got {map_name!r}")
        self.info = _info()
        self.n_envs, self.device = n_envs, torch.device(device)
        self._payoff = torch.tensor([PAYOFF_2A, PAYOFF_2B], device=self.device)
        self._features = torch.eye(OVER + 1, len(STATE_FEATURES), device=self.device)
        self._place = torch.full((n_envs,), OVER, device=self.device)
        self._battle_ids = torch.full((n_envs,), -1, device=self.device)
        self._next_battle = 0

    def reset(
        self, mask: torch.Tensor | None = None, battle_ids: torch.Tensor | None = None
    ) -> Observation:
        if mask is None:
            mask = torch.ones(self.n_envs, dtype=torch.bool, device=self.device)
        if battle_ids is None:
            battle_ids = self._next_battle + mask.long().cumsum(0) - 1
        if mask.any():
            self._next_battle = max(self._next_battle, int(battle_ids[mask].max()) + 1)
        self._battle_ids = torch.where(mask, battle_ids, self._battle_ids)
        self._place = torch.where(mask, FIRST, self._place)
        return self._observe()

    def step(self, actions: torch.Tensor) -> Transition:
        playing = self._place != OVER
        self._refuse_unavailable(actions, playing)
        first, second = actions.clamp(0, N_ACTIONS - 1).unbind(1)
        paying = (self._place == SECOND_A) | (self._place == SECOND_B)
        table = (self._place == SECOND_B).long()
        reward = torch.where(paying, self._payoff[table, first, second], 0.0)
        after_first = SECOND_A + first
        self._place = torch.where(self._place == FIRST, after_first, OVER)
        nobody_dies = torch.zeros(self.n_envs, dtype=torch.int64, device=self.device)
        return Transition(
            observation=self._observe(),
            reward=reward,
            terminated=self._place == OVER,
            truncated=torch.zeros_like(paying),
            battle_won=reward == BEST_RETURN,
            dead_allies=nobody_dies,
            dead_enemies=nobody_dies,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "place": self._place.clone(),
            "battle_ids": self._battle_ids.clone(),
            "next_battle": self._next_battle,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._place = state["place"].to(self.device).clone()
        self._battle_ids = state["battle_ids"].to(self.device).clone()
        self._next_battle = int(state["next_battle"])

    def _refuse_unavailable(self, actions: torch.Tensor, playing: torch.Tensor) -> None:
        wrong = ((actions < 0) | (actions >= N_ACTIONS)) & playing[:, None]
        if wrong.any():
            slot, agent = wrong.nonzero()[0].tolist()
            battle, action = int(self._battle_ids[slot]), int(actions[slot, agent])
            raise UnavailableActionError(battle, agent, action)

    def _observe(self) -> Observation:
        state = self._features[self._place]
        return Observation(
            obs=state[:, None].expand(-1, N_AGENTS, -1).contiguous(),
            state=state,
            avail_actions=torch.ones(
                self.n_envs, N_AGENTS, N_ACTIONS, dtype=torch.bool, device=self.device
            ),
        )


def _info() -> EnvInfo:
    layout = "\n".join(("obs", *STATE_FEATURES, "actions", "A", "B"))
    return EnvInfo(
        name="two_step",
        map_name="two_step",
        n_agents=N_AGENTS,
        n_enemies=0,
        n_actions=N_ACTIONS,
        obs_dim=len(STATE_FEATURES),
        state_dim=len(STATE_FEATURES),
        episode_limit=EPISODE_LIMIT,
        unit_types=("player",) * N_AGENTS,
        continuing_episode=False,
        layout_sha256=hashlib.sha256(layout.encode()).hexdigest(),
    )
