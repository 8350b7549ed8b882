"""What the trainer asks of any learner, and what learners share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.config import LearningConfig
from training.networks.agent import DRQN
from training.types import EpisodeBatch


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient was not finite; the step was not taken."""

    def __init__(self, gradient_step: int, loss: float, grad_norm: float) -> None:
        super().__init__(
            f"gradient step {gradient_step}: loss {loss}, gradient norm {grad_norm}; "
            "the step was not taken"
        )
        self.gradient_step = gradient_step


class Learner(Protocol):
    """Trains the agent network, which is all that plays."""

    agent: DRQN
    gradient_steps: int

    def train(self, batch: EpisodeBatch, n_episodes: int) -> dict[str, Tensor]:
        """One gradient step of the agent network.

        Args:
            batch: on the learner's device.
            n_episodes: played so far.

        Returns:
            Detached 0-d tensors by their names in metrics.jsonl.

        Raises:
            NonFiniteLossError
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on; "agent" is the agent network's."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def build_optimiser(
    parameters: Iterable[nn.Parameter], config: LearningConfig, lr: float
) -> torch.optim.Optimizer:
    """The optimiser that the settings name."""
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr, eps=config.optim_eps)
    return torch.optim.RMSprop(parameters, lr=lr, alpha=config.optim_alpha, eps=config.optim_eps)
