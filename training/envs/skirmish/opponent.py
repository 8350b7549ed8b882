"""The scripted enemy: one attack-move order, and the engine's own target acquisition.

No map starts an AI, so this is all there is to SMAC's opponent (spec of the maps' scripts).
Acquisition follows what players have documented of the engine (Liquipedia, "Automatic
Targeting"): a target stays the target until it dies or, once it has been in weapon range,
leaves it; then the closest one within the scan range is taken, which is the weapon's range but
at least 5, edge to edge.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from training.envs.skirmish.world import ATTACK_MOVE, NOBODY, Pairs, Tables, World, aim

HELP_RADIUS = 4.0  # within it of a friend under attack, idle hands come to help


def acquire_targets(world: World, tables: Tables, near: Pairs) -> World:
    """Enemies that have lost their target take the closest one in scan range, if there is one."""
    n = tables.n_allies
    target = world.target[n:]
    in_range = aim(world, tables).beyond[n:] <= 0
    has_target = target >= 0
    keeps = has_target & (~world.engaged[n:] | in_range | (world.windup[n:] >= 0))
    past_scan = torch.sqrt(near.squared[n:, :n]) - tables.scan
    nearest = past_scan.amin(1)
    # Two reductions that run over whole rows of battles; `min` with its index does not.
    is_nearest = past_scan == nearest[:, None]
    who = n - (is_nearest * (n - tables.number[None, :n])).amax(1).to(torch.int64)
    takes = ~keeps & (nearest <= 0) & (world.health[n:] > 0)
    engaged = has_target & (world.engaged[n:] | in_range) & ~takes
    return replace(
        world,
        target=torch.cat((world.target[:n], torch.where(takes, who, target))),
        engaged=torch.cat((world.engaged[:n], engaged)),
    )


def respond_to_attacks(world: World, tables: Tables, near: Pairs, attacker: Tensor) -> World:
    """An enemy without a target turns on whoever hit it, or hit a friend within 4 of it.

    It was not the closest that it saw, so it counts as lost once somebody is in scan range.
    """
    n = tables.n_allies
    far = near.squared[n:, n:] > HELP_RADIUS**2
    heard = attacker[None, n:].masked_fill(far, NOBODY).amax(1)
    free = (world.target[n:] < 0) & (world.order[n:] == ATTACK_MOVE)
    target = torch.where(free, heard, world.target[n:])
    return replace(
        world,
        target=torch.cat((world.target[:n], target)),
        engaged=torch.cat((world.engaged[:n], world.engaged[n:] | free)),
    )
