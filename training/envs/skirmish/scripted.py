"""SMAC's own scripted player, its `heuristic_ai` (spec §5.5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.envs.skirmish.features import N_NON_ATTACK, NO_OP, Units
from training.envs.skirmish.world import NOBODY


@dataclass(frozen=True)
class Scripted:
    """Each agent keeps its target while that can be attacked, then takes the nearest that can.

    Fighters can attack all living enemies, wherever these are. Healers can heal the living agents
    that are hurt and no healers, and so they drop whoever is whole again.
    """

    heals: Tensor | None
    """[n, 1] bool, the healers; None if there are none."""
    n_allies: int
    rest: bool
    """`heuristic_rest`: walk toward a target that the mask does not allow."""

    def orders(self, units: Units, target: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [n, B], NO_OP for who has no target, and everybody's target from now on.

        Args:
            target: [n, B] the targets so far as numbers of units, or NOBODY.
            available: [n, U, B] bool.
        """
        n = self.n_allies
        x, y = units.x.double(), units.y.double()
        dx, dy = x[None] - x[:n, None], y[None] - y[:n, None]
        possible = self._possible(units)
        distance = torch.sqrt(dx * dx + dy * dy).masked_fill(~possible, torch.inf)
        kept = target.clamp_min(0)
        keeps = (target != NOBODY) & _at(possible, kept)
        target = torch.where(keeps, kept, distance.argmin(1))
        chosen = torch.where(target < n, target, target - n) + N_NON_ATTACK
        order = chosen
        if self.rest:
            allowed = _at(available, chosen.clamp_max(available.shape[1] - 1))
            order = torch.where(allowed, chosen, _toward(_at(dx, target), _at(dy, target)))
        some = possible.any(1)
        return torch.where(some, order, NO_OP), torch.where(some, target, NOBODY)

    def _possible(self, units: Units) -> Tensor:
        """[n, N, B] bool, whom each agent can attack or heal."""
        n = self.n_allies
        enemy = torch.arange(units.x.shape[0], device=units.x.device)[:, None] >= n
        possible = (units.alive & enemy).expand(n, -1, -1)
        if self.heals is None:
            return possible
        hurt = units.alive[:n] & (units.health[:n] < 1) & ~self.heals
        patients = torch.cat((hurt, torch.zeros_like(units.alive[n:])))
        return torch.where(self.heals[:, None], patients, possible)


def _at(values: Tensor, index: Tensor) -> Tensor:
    """[n, B]: of each agent's values [n, ·, B], the one at its index [n, B]."""
    return values.gather(1, index[:, None])[:, 0]


def _toward(dx: Tensor, dy: Tensor) -> Tensor:
    """The move along the longer axis of a way."""
    north, south, east, west = 2, 3, 4, 5
    along_x, along_y = torch.where(dx > 0, east, west), torch.where(dy > 0, north, south)
    return torch.where(dx.abs() > dy.abs(), along_x, along_y)
