"""COMA: each agent's policy learns from what its own action changed for the team.

Foerster et al. (2018), with PyMARL's settings and order of work. A central critic says what the
team's return will be for each action of one agent, the others' actions being given. An action's
advantage is its value less the policy's average over the agent's own actions (the counterfactual
baseline).

The critic is trained before the policy, in one optimiser step per time step, from the last back to
the first, towards TD(λ) returns of a target critic. The values that the policy learns from are the
critic's as it was when it came to each time step.

A dead agent's one action has probability 1 and advantage 0: it teaches the policy nothing, but
counts in the mean, and in the critic's, as it does in PyMARL.

The learner sees observations rounded to float16, as they are kept; the players did not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.algorithms.learner import NonFiniteLossError, build_optimiser
from training.algorithms.targets import lambda_returns
from training.config import LearningConfig
from training.exploration import greedy
from training.networks.agent import DRQN
from training.networks.critic import COMACritic, CriticInput
from training.sampling import action_probabilities
from training.types import EnvInfo, EpisodeBatch


class COMALearner:
    """Trains an agent network, whose outputs are logits, and a critic.

    On-policy: every batch must have been played whole with the weights that it is given to, and
    with the ε of the environment step at which it began. Weights are drawn from torch's global
    generator: seed it first.

    Args:
        epsilon: environment steps -> the policy's floor while they were played.
    """

    def __init__(
        self,
        info: EnvInfo,
        config: LearningConfig,
        epsilon: Callable[[int], float],
        device: torch.device,
    ) -> None:
        self.config = config
        self.agent = DRQN(info.obs_dim, info.n_actions, info.n_agents, config.rnn_hidden_dim)
        self.agent.to(device)
        self.critic = COMACritic(info).to(device)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.agent_optimiser = build_optimiser(self.agent.parameters(), config, config.lr)
        self.critic_optimiser = build_optimiser(self.critic.parameters(), config, config.critic_lr)
        self._epsilon = epsilon
        self.gradient_steps = self.critic_steps = 0
        self._last_target_update = 0
        self._env_steps = 0

    def train(self, batch: EpisodeBatch, n_episodes: int) -> dict[str, Tensor]:
        """One gradient step of the agent network, after the critic's.

        Returns:
            Detached 0-d tensors, under PyMARL's names: critic_loss, critic_grad_norm, td_error_abs,
            q_taken_mean and target_mean are means over the critic's steps.

        Raises:
            NonFiniteLossError: critic steps before the one at fault stay taken.
        """
        # All steps so far were learned from, so these were played from there on.
        epsilon = self._epsilon(self._env_steps)
        logits = self.agent.unroll(batch)
        actions = actions_at(batch, logits.detach())
        moments = self.critic.read(batch, actions)
        targets = self.targets(batch, moments)
        q_values, stats = self._train_critic(batch, moments.rows(batch.step_rows), targets)
        loss, policy_stats = self.policy_loss(batch, logits, q_values, epsilon)
        grad_norm = self._step(self.agent, self.agent_optimiser, loss)
        self.gradient_steps += 1
        self._env_steps += batch.n_steps
        if self.critic_steps - self._last_target_update >= self.config.target_update_interval:
            self.target_critic.load_state_dict(self.critic.state_dict())
            self._last_target_update = self.critic_steps
        policy = {"coma_loss": loss.detach(), "agent_grad_norm": grad_norm}
        return policy | policy_stats | stats

    @torch.no_grad()
    def targets(self, batch: EpisodeBatch, moments: CriticInput) -> Tensor:
        """[K, A]: TD(λ) returns of the target critic's values of the actions taken."""
        taken = moments.own % self.critic.n_actions
        values = self.target_critic(moments).gather(2, taken[:, :, None])[:, :, 0]
        return lambda_returns(
            batch.reward,
            batch.terminal,
            values[batch.n_episodes :],
            batch.widths[1:],
            self.config.gamma,
            self.config.td_lambda,
        )

    def _train_critic(
        self, batch: EpisodeBatch, moments: CriticInput, targets: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step for each time step, the last first.

        Returns:
            The values [K, A, U] that it gave before each step, and means over the steps.
        """
        widths = batch.widths[1:]
        steps = zip(
            moments.steps(widths),
            batch.actions.split_with_sizes(widths),
            targets.split_with_sizes(widths),
            strict=True,
        )
        values: list[Tensor] = []
        stats: list[Tensor] = []
        for moment, actions, target in reversed(list(steps)):
            q_values = self.critic(moment)
            q_taken = q_values.gather(2, actions[:, :, None])[:, :, 0]
            td_error = q_taken - target
            loss = td_error.square().mean()
            grad_norm = self._step(self.critic, self.critic_optimiser, loss)
            self.critic_steps += 1
            values.append(q_values.detach())
            means = (td_error.abs().mean(), q_taken.mean(), target.mean())
            stats.append(torch.stack([loss, grad_norm, *means]).detach())
        names = ("critic_loss", "critic_grad_norm", "td_error_abs", "q_taken_mean", "target_mean")
        averages = torch.stack(stats).mean(0).unbind()
        return torch.cat(values[::-1]), dict(zip(names, averages, strict=True))

    def policy_loss(
        self, batch: EpisodeBatch, logits: Tensor, q_values: Tensor, epsilon: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the mean over steps and agents of advantage times log-probability.

        Args:
            logits: [R, A, U].
            q_values: [K, A, U] from the critic.
        """
        rows = batch.step_rows
        available = batch.avail_actions.index_select(0, rows)
        policy = action_probabilities(logits.index_select(0, rows), available, epsilon)
        advantage = advantages(policy.detach(), q_values, batch.actions)
        taken = policy.gather(2, batch.actions[:, :, None])[:, :, 0]
        loss = -(advantage * taken.log()).mean()
        stats = {"advantage_mean": advantage.mean(), "pi_max": policy.detach().amax(2).mean()}
        return loss, stats

    def _step(self, network: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        """Returns the gradient's norm before it was clipped."""
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        grad_norm = nn.utils.clip_grad_norm_(network.parameters(), self.config.grad_norm_clip)
        value = float(loss.detach())
        if not math.isfinite(value + float(grad_norm)):
            raise NonFiniteLossError(self.gradient_steps + 1, value, float(grad_norm))
        optimiser.step()
        return grad_norm

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: networks, target, optimisers, counters."""
        return {
            "agent": self.agent.state_dict(),
            "critic": self.critic.state_dict(),
            "target_critic": self.target_critic.state_dict(),
            "agent_optimiser": self.agent_optimiser.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
            "gradient_steps": self.gradient_steps,
            "critic_steps": self.critic_steps,
            "last_target_update": self._last_target_update,
            "env_steps": self._env_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.critic.load_state_dict(state["critic"])
        self.target_critic.load_state_dict(state["target_critic"])
        self.agent_optimiser.load_state_dict(state["agent_optimiser"])
        self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        self.gradient_steps, self.critic_steps = state["gradient_steps"], state["critic_steps"]
        self._last_target_update = state["last_target_update"]
        self._env_steps = state["env_steps"]


def actions_at(batch: EpisodeBatch, logits: Tensor) -> Tensor:
    """[R, A] int64: the action taken at each observation. At an episode's last none was taken, and
    the likeliest stands in for it; only a time-out that does not count as an ending reads it.
    (PyMARL draws one there.)"""
    return greedy(logits, batch.avail_actions).index_copy_(0, batch.step_rows, batch.actions)


def advantages(policy: Tensor, q_values: Tensor, actions: Tensor) -> Tensor:
    """[K, A]: the taken action's value less the policy's average over the agent's own actions.

    Args:
        policy: [K, A, U] probabilities.
        q_values: [K, A, U].
        actions: [K, A] int64.
    """
    baseline = (policy * q_values).sum(2)
    return q_values.gather(2, actions[:, :, None])[:, :, 0] - baseline
