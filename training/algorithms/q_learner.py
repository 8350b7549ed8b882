"""One Q learner for IQL, VDN, QMIX and its ablations: what differs is the mixer alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.algorithms.learner import NonFiniteLossError, build_optimiser
from training.algorithms.targets import lambda_returns
from training.config import LearningConfig
from training.networks.agent import DRQN
from training.networks.mixers import build_mixer
from training.types import EnvInfo, EpisodeBatch


class QLearner:
    """Trains an agent network and a mixer on whole episodes (PyMARL's QLearner).

    A dead agent's one action has a value too, which is mixed like any other, as in PyMARL.

    Weights are drawn from torch's global generator: seed it first.

    Args:
        algo: any of `ALGORITHMS` that has a mixer.
    """

    def __init__(
        self, info: EnvInfo, algo: str, config: LearningConfig, device: torch.device
    ) -> None:
        self.config = config
        self.device = device
        self.n_agents = info.n_agents
        self.agent = DRQN(info.obs_dim, info.n_actions, info.n_agents, config.rnn_hidden_dim)
        self.agent.to(device)
        self.mixer = build_mixer(algo, info, config).to(device)
        self.target_agent = copy.deepcopy(self.agent).requires_grad_(False)
        self.target_mixer = copy.deepcopy(self.mixer).requires_grad_(False)
        self.parameters = [*self.agent.parameters(), *self.mixer.parameters()]
        self.optimiser = build_optimiser(self.parameters, config, config.lr)
        self.gradient_steps = 0
        self._last_target_update = 0

    def train(self, batch: EpisodeBatch, n_episodes: int) -> dict[str, Tensor]:
        """One gradient step.

        Args:
            batch: on the learner's device.
            n_episodes: played so far; tells when the target networks are due.

        Returns:
            Detached 0-d tensors: loss, grad_norm (before clipping), td_error_abs, and
            q_taken_mean and target_mean, which PyMARL divides by the number of agents.

        Raises:
            NonFiniteLossError: nothing has changed then.
        """
        loss, stats = self.loss(batch)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.config.grad_norm_clip)
        loss = loss.detach()
        if not math.isfinite(float(loss + grad_norm)):
            raise NonFiniteLossError(self.gradient_steps + 1, float(loss), float(grad_norm))
        self.optimiser.step()
        self.gradient_steps += 1
        self._update_target(n_episodes)
        return {"loss": loss, "grad_norm": grad_norm} | stats

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean squared TD error over steps (IQL: and agents), and statistics of it."""
        q_values = self.agent.unroll(batch)  # [R, A, U]
        targets = self._targets(batch, q_values.detach())
        rows = batch.step_rows
        taken = batch.actions.new_zeros(q_values.shape[:2]).index_copy_(0, rows, batch.actions)
        chosen = q_values.gather(2, taken[:, :, None])[:, :, 0].index_select(0, rows)
        q_taken = self.mixer(chosen, batch.state.index_select(0, rows))  # [K, M]
        td_error = q_taken - targets
        with torch.no_grad():
            per_agent = q_taken.shape[1] / self.n_agents
            stats = {
                "td_error_abs": td_error.abs().mean(),
                "q_taken_mean": q_taken.mean() * per_agent,
                "target_mean": targets.mean() * per_agent,
            }
        return td_error.square().mean(), stats

    @torch.no_grad()
    def _targets(self, batch: EpisodeBatch, q_values: Tensor) -> Tensor:
        """[K, M], from the observation after each step."""
        after = slice(batch.n_episodes, None)
        next_q = self.target_agent.unroll(batch)[after]
        chooser = q_values[after] if self.config.double_q else next_q
        best = chooser.masked_fill(~batch.avail_actions[after], -torch.inf).argmax(2, keepdim=True)
        next_value = self.target_mixer(next_q.gather(2, best)[:, :, 0], batch.state[after])
        return lambda_returns(
            batch.reward,
            batch.terminal,
            next_value,
            batch.widths[1:],
            self.config.gamma,
            self.config.td_lambda,
        )

    def _update_target(self, n_episodes: int) -> None:
        by_episodes = self.config.target_update_unit == "episodes"
        now = n_episodes if by_episodes else self.gradient_steps
        if now - self._last_target_update >= self.config.target_update_interval:
            self.target_agent.load_state_dict(self.agent.state_dict())
            self.target_mixer.load_state_dict(self.mixer.state_dict())
            self._last_target_update = now

    def gradients(self) -> dict[str, Tensor]:
        """The last backward pass's gradients by name: "agent.fc1.weight", "mixer.v.bias"..."""
        return {
            f"{part}.{name}": parameter.grad
            for part, module in (("agent", self.agent), ("mixer", self.mixer))
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: networks, targets, optimiser, counters."""
        return {
            "agent": self.agent.state_dict(),
            "mixer": self.mixer.state_dict(),
            "target_agent": self.target_agent.state_dict(),
            "target_mixer": self.target_mixer.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "gradient_steps": self.gradient_steps,
            "last_target_update": self._last_target_update,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.mixer.load_state_dict(state["mixer"])
        self.target_agent.load_state_dict(state["target_agent"])
        self.target_mixer.load_state_dict(state["target_mixer"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.gradient_steps = state["gradient_steps"]
        self._last_target_update = state["last_target_update"]
