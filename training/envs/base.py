"""The batched environment protocol: E battles side by side, no hidden auto-reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from training.types import EnvInfo, Observation, Transition


class UnavailableActionError(ValueError):
    """An agent was given an action that its mask forbids."""

    def __init__(self, battle: int, agent: int, action: int) -> None:
        super().__init__(
            f"battle {battle}: agent {agent} was given action {action}, "
            "which is not available to it"
        )
        self.battle, self.agent, self.action = battle, agent, action

    def __reduce__(self) -> tuple[type, tuple[int, int, int]]:
        # It travels between processes where environments have their own.
        return type(self), (self.battle, self.agent, self.action)


class BatchedEnv(Protocol):
    """E battles that advance together; each is reset when its caller says so.

    A battle is a function of the environment's seed, its battle id and the actions taken in it:
    it does not depend on E, on its slot, or on the battles beside it. A battle that has ended
    stands still until it is reset: its actions are ignored, its reward is 0, and the rest of its
    `Transition` repeats the last step's (with `battle_won` False).

    The environments of `training.envs.GAMES` are less: programs that take memory of their own, that
    break off (`Transition.lost`), and whose battles do not repeat. There a battle's number tells it
    from others and no more: nothing may count on playing it again.
    """

    info: EnvInfo
    n_envs: int
    device: torch.device

    def reset(
        self, mask: torch.Tensor | None = None, battle_ids: torch.Tensor | None = None
    ) -> Observation:
        """Begin new battles in the slots that `mask` names (all by default).

        Args:
            mask: [E] bool.
            battle_ids: [E] int64, read where `mask` is True. By default each slot takes the next
                unused number, in slot order.

        Returns:
            The observation of all E battles, also of those not reset.
        """
        ...

    def step(self, actions: torch.Tensor) -> Transition:
        """Advance every battle by one step.

        Args:
            actions: [E, A] int64.

        Raises:
            UnavailableActionError: naming the first battle (by its number), agent and action at
                fault; no battle has moved then.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on from here, as tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
