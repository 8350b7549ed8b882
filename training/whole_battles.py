"""Playing for learning on-policy: a batch of whole battles with one set of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from training.envs.base import BatchedEnv
from training.networks.agent import DRQN
from training.rollout import AgentPolicy, Battles, battle_steps
from training.sampling import action_probabilities, sample_actions
from training.types import Episode


class SamplingPolicy(AgentPolicy):
    """One agent network, whose outputs are logits, plays all E battles, each agent drawing its
    actions by itself."""

    def __init__(self, agent: DRQN, n_envs: int, seed: int) -> None:
        super().__init__(agent, n_envs, seed=seed)
        self.epsilon = 1.0
        """The floor under every action's chance; see `action_probabilities`."""

    def _choose(self, q_values: torch.Tensor, avail_actions: torch.Tensor) -> torch.Tensor:
        chances = action_probabilities(q_values, avail_actions, self.epsilon)
        return sample_actions(chances, self._random)


class WholeBattles:
    """Plays battles for learning in batches: all of a batch from beginning to end, with the weights
    and the ε at hand when it begins.

    Args:
        n_battles: of a batch, at least as many as the environment plays side by side.
        epsilon: environment steps -> ε.
    """

    def __init__(
        self,
        env: BatchedEnv,
        policy: SamplingPolicy,
        n_battles: int,
        epsilon: Callable[[int], float],
    ) -> None:
        self.battles = Battles(env, keep_observations=True)
        self.policy = policy
        self._n_battles, self._epsilon = n_battles, epsilon
        self._next_battle = 0
        self.env_steps = 0
        """Steps of battles played so far. A slot that waits for the batch's end takes none."""

    def play(self, n_env_steps: int) -> list[Episode]:
        """Play one batch, however many steps that takes; nothing if no steps are wanted.

        Returns:
            The episodes, by the battle's number.
        """
        if n_env_steps == 0:
            return []
        self.policy.epsilon = self._epsilon(self.env_steps)
        ids = range(self._next_battle, self._next_battle + self._n_battles)
        episodes: list[Episode] = []
        for ended, transition in battle_steps(self.battles, self.policy, ids):
            if ended.any():
                episodes += self.battles.episodes(ended, transition)
        self._next_battle += self._n_battles
        self.env_steps += sum(episode.length for episode in episodes)
        return sorted(episodes, key=lambda episode: episode.battle_id)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to play on: between batches no battle is under way."""
        return {
            "next_battle": self._next_battle,
            "env_steps": self.env_steps,
            "policy": self.policy.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._next_battle, self.env_steps = state["next_battle"], state["env_steps"]
        self.policy.load_state_dict(state["policy"])
