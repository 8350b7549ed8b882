"""Which enemy is enemy 0, 1, 2, ... in observations, states and actions.

SMAC numbers the enemies as the game happens to list them. That is the order in which the map
creates them in the first battle, and may be any other in later ones (spec §1.2); an agent that
shall hold its own there should not learn to rely on one of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.envs.skirmish import rng
from training.envs.skirmish.options import EnemyOrder
from training.envs.skirmish.scenario import UnitType

# The game's numbers of the stock unit types, by which SMAC's rule for allies sorts first.
TYPE_IDS = {
    "colossus": 4,
    "baneling": 9,
    "marine": 48,
    "marauder": 51,
    "medivac": 54,
    "zealot": 73,
    "stalker": 74,
    "spine_crawler": 98,
    "zergling": 105,
    "hydralisk": 107,
}
_DRAW = (1 << 20) + 2  # a counter that no game loop reaches
_GRAIN, _COORDINATE = 4096, 1 << 20  # positions are multiples of 1/4096, below 32


def enemy_indices(
    order: EnemyOrder, enemies: list[UnitType], x: Tensor, y: Tensor, keys: Tensor
) -> Tensor | None:
    """[k, B] int64: the enemy, by order of creation, that is listed as each; None for "creation".

    Args:
        x: with y, [k, B] positions in the first observation.
        keys: [B] the battles' keys: the same battle is shuffled the same way anywhere.
    """
    unit = torch.arange(len(enemies), device=keys.device)[:, None]
    if order == "shuffled":
        rank = rng.draw(keys, _DRAW, unit)
    elif order == "sorted":
        kind = torch.tensor([[TYPE_IDS[unit.name]] for unit in enemies], device=keys.device)
        column, row = ((place * _GRAIN).round().to(torch.int64) for place in (x, y))
        rank = (kind * _COORDINATE + column) * _COORDINATE + row
    else:
        return None
    return rank.argsort(dim=0, stable=True)
