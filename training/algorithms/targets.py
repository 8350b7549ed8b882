"""What a step's value is trained towards. Pure functions of tensors.

K steps stand in the order of an `EpisodeBatch`: all first steps, then all second ones, episodes in
order of falling length. M values a step: 1, or one for each agent. `step_widths[t]` is how many
episodes have a step t.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def one_step_targets(reward: Tensor, terminal: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """y_t = r_t + γ (1 - terminal_t) V_{t+1}.

    Args:
        reward: [K] float32.
        terminal: [K] bool.
        next_value: [K, M] value of the observation after the step.

    Returns:
        [K, M].
    """
    bootstrapped = next_value.masked_fill(terminal[:, None], 0.0)
    return torch.add(reward[:, None], bootstrapped, alpha=gamma)


def lambda_returns(
    reward: Tensor,
    terminal: Tensor,
    next_value: Tensor,
    step_widths: Sequence[int],
    gamma: float,
    td_lambda: float,
) -> Tensor:
    """TD(λ): G_t = r_t + γ (1 - terminal_t) ((1 - λ) V_{t+1} + λ G_{t+1}).

    The recursion starts at each episode's own last step, where G = r + γ (1 - terminal) V. With
    λ = 0 it is `one_step_targets`. (Sutton and Barto 2018, eq. 12.20; Q(λ) of Peng and Williams,
    1996: not corrected for the actions taken off policy.)

    Args:
        reward: [K] float32.
        terminal: [K] bool; True at no step but an episode's last.
        next_value: [K, M] value of the observation after the step.

    Returns:
        [K, M].
    """
    if td_lambda == 0.0:
        return one_step_targets(reward, terminal, next_value, gamma)
    returns = next_value.masked_fill(terminal[:, None], 0.0)
    end = later_end = len(reward)  # rows end to later_end are the step after
    for width in reversed(step_widths):
        start = end - width
        # Episodes that have a step after: the first ones. The others end here.
        returns[start : start + later_end - end].lerp_(returns[end:later_end], td_lambda)
        returns[start:end].mul_(gamma).add_(reward[start:end, None])
        end, later_end = start, end
    return returns
