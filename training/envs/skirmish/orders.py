"""What allies are told to do, and what they make of it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from training.envs.skirmish.world import (
    ATTACK,
    HEAL,
    MOVE,
    Tables,
    World,
    of_target,
)


class Orders(NamedTuple):
    """One order for each of the n allies, in each of B battles; all [n, B]."""

    given: Tensor
    """bool: who is told anything; the others go on as they were."""
    order: Tensor
    """int64: STOP, MOVE, ATTACK or HEAL."""
    target: Tensor
    """int64, the unit to attack or heal; NOBODY with other orders."""
    goal_x: Tensor
    """float32, where to move; with other orders it is not looked at."""
    goal_y: Tensor


def obey(world: World, tables: Tables, orders: Orders) -> World:
    """The world right after the orders; an attack on the same target goes on undisturbed.

    What the game refuses, it does as if nothing had been said: an order to the dead, an attack on
    somebody whom the weapon cannot hit, healing somebody unhurt.
    """
    n = tables.n_allies
    aimed_at = orders.target.clamp_min(0)
    pair = tables.index[:n] * tables.n_units + aimed_at
    well = of_target(world.health, aimed_at) >= of_target(tables.health, aimed_at)
    refused = (orders.order == HEAL) & well
    refused = refused | ((orders.order == ATTACK) & ~tables.can_hit[pair])
    obeys = orders.given & (world.health[:n] > 0) & ~refused
    moves = obeys & (orders.order == MOVE)
    target = torch.where(obeys, orders.target, world.target[:n])
    interrupted = (target != world.target[:n]) & (world.windup[:n] >= 0)

    def with_allies(now: Tensor, allies: Tensor) -> Tensor:
        return torch.cat((allies, now[n:]))

    return replace(
        world,
        order=with_allies(world.order, torch.where(obeys, orders.order, world.order[:n])),
        target=with_allies(world.target, target),
        goal_x=with_allies(world.goal_x, torch.where(moves, orders.goal_x, world.goal_x[:n])),
        goal_y=with_allies(world.goal_y, torch.where(moves, orders.goal_y, world.goal_y[:n])),
        windup=with_allies(world.windup, world.windup[:n].masked_fill(interrupted, -1.0)),
        cooldown=with_allies(world.cooldown, torch.where(interrupted, 0.0, world.cooldown[:n])),
    )
