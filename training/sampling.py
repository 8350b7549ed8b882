"""A policy's probabilities, and actions drawn by them."""

from __future__ import annotations

import torch
from torch import Tensor


def action_probabilities(logits: Tensor, avail_actions: Tensor, epsilon: float) -> Tensor:
    """What each action's chance is: a softmax with a floor, over what is available.

    PyMARL's order for COMA: the softmax goes over all U actions, then comes the floor

        p = (1 - ε) softmax(logits) + ε / U

    and then the unavailable ones are left out and the others scaled to sum to 1.

    Args:
        logits: [..., U] float32.
        avail_actions: [..., U] bool, at least one True.

    Returns:
        [..., U]; more than 0 exactly where available.
    """
    floor = epsilon / logits.shape[-1]
    mixed = torch.add(logits.softmax(-1) * (1 - epsilon), floor)
    # Without a floor all that is available may have rounded to 0.
    possible = mixed.clamp_min(torch.finfo(mixed.dtype).tiny).masked_fill(~avail_actions, 0.0)
    return possible / possible.sum(-1, keepdim=True)


def sample_actions(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One action of each row, by its probabilities.

    Args:
        probabilities: [..., U].
        generator: on the tensor's device.

    Returns:
        [...] int64.
    """
    shape, device = probabilities.shape[:-1], probabilities.device
    draw = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
    return pick(probabilities, draw)


def pick(probabilities: Tensor, draw: Tensor) -> Tensor:
    """The action that `draw` points at: the first up to which more than `draw` of the chance lies.

    Args:
        probabilities: [..., U], some more than 0.
        draw: [...] float64, uniform in 0 (included) to 1 (excluded).

    Returns:
        [...] int64, of an action whose probability is not 0.
    """
    chances = probabilities.double().cumsum(-1)
    total = chances[..., -1:]
    # The largest draw below 1, times the total, may be rounded up to the total itself.
    below = torch.nextafter(total, torch.zeros_like(total))
    return (chances > (draw[..., None] * total).minimum(below)).byte().argmax(-1)
