"""Epsilon-greedy: the schedule and the choice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearSchedule:
    """Falls from `start` to `finish` over `anneal_time` environment steps, then stays."""

    start: float = 1.0
    finish: float = 0.05
    anneal_time: int = 50_000

    def __call__(self, env_steps: int) -> float:
        if env_steps >= self.anneal_time:
            return self.finish
        return self.start + (self.finish - self.start) * env_steps / self.anneal_time


def greedy(q_values: Tensor, avail_actions: Tensor) -> Tensor:
    """The best available action, the first one of equals.

    Args:
        q_values: [..., U] float32.
        avail_actions: [..., U] bool.

    Returns:
        [...] int64.
    """
    return q_values.masked_fill(~avail_actions, -torch.inf).argmax(-1)


def epsilon_greedy(
    q_values: Tensor, avail_actions: Tensor, epsilon: float, generator: torch.Generator
) -> Tensor:
    """With chance `epsilon` a uniformly random available action, else the best available one.

    Each agent draws for itself. The same numbers are drawn whatever `epsilon` is.

    Args:
        q_values: [..., U] float32.
        avail_actions: [..., U] bool, at least one True.
        generator: on the tensors' device.

    Returns:
        [...] int64.
    """
    # Row 0 decides whether to explore, row 1 which of the available actions it is.
    draws = torch.rand(
        (2, *q_values.shape[:-1]), generator=generator, device=q_values.device, dtype=torch.float64
    )
    return choose(q_values, avail_actions, draws[0] < epsilon, draws[1])


def choose(q_values: Tensor, avail_actions: Tensor, explore: Tensor, draw: Tensor) -> Tensor:
    """The random available action that `draw` points at where `explore` is True, else the best one.

    Args:
        q_values: [..., U] float32.
        avail_actions: [..., U] bool, at least one True.
        explore: [...] bool.
        draw: [...] float64, uniform in 0 (included) to 1 (excluded).

    Returns:
        [...] int64.
    """
    counts = avail_actions.cumsum(-1)
    n_available = counts[..., -1]
    # The largest draw below 1, times the count, is rounded up to the count itself.
    wanted = (draw * n_available).long().minimum(n_available - 1)
    # The (wanted + 1)-th available action: the first at which the count exceeds `wanted`.
    random_action = (counts > wanted[..., None]).byte().argmax(-1)
    return torch.where(explore, random_action, greedy(q_values, avail_actions))
