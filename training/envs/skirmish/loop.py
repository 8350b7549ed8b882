"""One game loop: 1/16 of a game second, as a short list of World -> World verbs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from training.envs.skirmish import rng
from training.envs.skirmish.combat import apply_hits, heal, swing
from training.envs.skirmish.movement import move
from training.envs.skirmish.opponent import acquire_targets, respond_to_attacks, tend
from training.envs.skirmish.world import (
    ATTACK,
    HEAL,
    NOBODY,
    STOP,
    Tables,
    World,
    aim,
    of_target,
    pairs,
)

SCAN_PERIOD = 8  # game loops from one look round for targets to the next; a power of two
SHIELD_REGEN = 0.125  # per game loop: 2 a game second
COOLDOWN_JITTER = (-1.0, 2.0)  # game loops, uniform: the engine's random weapon delay


def tick(world: World, tables: Tables, keys: Tensor, loop: Tensor) -> World:
    """Advance every battle by one game loop.

    Args:
        keys: [B] int64, of the battles' draws.
        loop: [B] int64, the number of this loop in its battle.
    """
    allies_first, jitter = _draws(tables, keys, loop)
    world = _pass_time(world, tables)
    world, bereft = _forget_the_dead(world)
    near = pairs(world.health, world.x, world.y, tables)
    turn = (loop + keys - tables.index) & (SCAN_PERIOD - 1) == 0
    world = acquire_targets(world, tables, near, turn | bereft)
    world = tend(world, tables, near)
    line = aim(world, tables)
    world, hits = swing(world, tables, line, jitter)
    moved = move(world, tables, near, line)
    world, attacker = apply_hits(moved, tables, hits, allies_first)
    world = heal(world, tables, line)
    return respond_to_attacks(world, tables, near, attacker)


def _draws(tables: Tables, keys: Tensor, loop: Tensor) -> tuple[Tensor, Tensor]:
    """Which side's blows land first in this loop, [B] bool, and the loops added to the cooldown
    of a swing that begins now, [N, B]."""
    bits = rng.draw(keys, loop, tables.index)
    low, high = COOLDOWN_JITTER
    return (bits[0] & 1) == 1, low + (high - low) * rng.unit_interval(bits >> 16, 16)


def _pass_time(world: World, tables: Tables) -> World:
    if tables.has_shields:
        wait = (world.shield_wait - 1).clamp_min(0)
        regenerates = (wait == 0) & (world.health > 0)
        grown = torch.minimum(world.shield + SHIELD_REGEN, tables.shield)
        shield = torch.where(regenerates, grown, world.shield)
        world = replace(world, shield_wait=wait, shield=shield)
    if tables.regenerates:
        grown = torch.minimum(world.health + tables.health_regen, tables.health)
        world = replace(world, health=torch.where(world.health > 0, grown, 0.0))
    if tables.healers:
        world = replace(world, energy=(world.energy + tables.energy_regen).minimum(tables.energy))
    return replace(world, cooldown=torch.where(world.cooldown > 0, world.cooldown - 1, 0.0))


def _forget_the_dead(world: World) -> tuple[World, Tensor]:
    """A target that has died is dropped; an ally then stands idle until its next order.

    Returns also who has lost its target so, [N, B] bool.
    """
    lost = (world.target >= 0) & (of_target(world.health, world.target) <= 0)
    ordered = (world.order == ATTACK) | (world.order == HEAL)
    world = replace(
        world,
        target=world.target.masked_fill(lost, NOBODY),
        order=world.order.masked_fill(lost & ordered, STOP),
        cooldown=world.cooldown.masked_fill(lost & (world.windup >= 0), 0.0),
        windup=world.windup.masked_fill(lost, -1.0),
    )
    return world, lost
