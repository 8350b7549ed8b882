"""One game loop: 1/16 of a game second, as a short list of World -> World verbs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from training.envs.skirmish.combat import apply_hits, swing
from training.envs.skirmish.movement import move
from training.envs.skirmish.opponent import acquire_targets, respond_to_attacks
from training.envs.skirmish.world import (
    ATTACK,
    NOBODY,
    STOP,
    Tables,
    World,
    aim,
    of_target,
    pairs,
)

SHIELD_REGEN = 0.125  # per game loop: 2 a game second


def tick(world: World, tables: Tables, rank: Tensor, jitter: Tensor) -> World:
    """Advance every battle by one game loop.

    Args:
        rank: [N, B] float32 integers below 2^24, distinct within a battle: the order in which
            units take their turn.
        jitter: [N, B] float32, loops added to the cooldown of a swing that begins now.
    """
    world = _pass_time(world, tables)
    world = _forget_the_dead(world)
    near = pairs(world.health, world.x, world.y, tables)
    world = acquire_targets(world, tables, near)
    line = aim(world, tables)
    world, hits = swing(world, tables, line, jitter)
    world = move(world, tables, near, line)
    world, attacker = apply_hits(world, tables, hits, rank)
    return respond_to_attacks(world, tables, near, attacker)


def _pass_time(world: World, tables: Tables) -> World:
    wait = (world.shield_wait - 1).clamp_min(0)
    regenerates = (wait == 0) & (world.health > 0)
    grown = torch.minimum(world.shield + SHIELD_REGEN, tables.shield)
    return replace(
        world,
        shield_wait=wait,
        shield=torch.where(regenerates, grown, world.shield),
        cooldown=(world.cooldown - 1).clamp_min(0),
    )


def _forget_the_dead(world: World) -> World:
    """A target that has died is dropped; an ally then stands idle until its next order."""
    lost = (world.target >= 0) & (of_target(world.health, world.target) <= 0)
    return replace(
        world,
        target=world.target.masked_fill(lost, NOBODY),
        order=world.order.masked_fill(lost & (world.order == ATTACK), STOP),
        cooldown=world.cooldown.masked_fill(lost & (world.windup >= 0), 0.0),
        windup=world.windup.masked_fill(lost, -1.0),
    )
