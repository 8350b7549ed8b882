"""The scripted enemy: one order, and the engine's own target acquisition.

No map starts an AI, so this is all there is to SMAC's opponent (spec of the maps' scripts).
Acquisition follows what players have documented of the engine (Liquipedia, "Automatic
Targeting"): a target stays the target until it dies or, once it has been in weapon range,
leaves it; then the closest one within the scan range is taken, which is half a unit more than
the weapon's range but at least 5, edge to edge. Units look round every eight game loops, each at
its own turn; those created together have consecutive turns (seen in replays of the real game).
Who can neither shoot nor is healing is taken last.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from training.envs.skirmish.world import (
    EVERYWHERE,
    HEAL,
    Healer,
    Pairs,
    Tables,
    World,
    aim,
    on_grain,
    root,
)

HELP_RADIUS = 4.0  # within it of a friend under attack, idle hands come to help


def acquire_targets(world: World, tables: Tables, near: Pairs, looks: Tensor) -> World:
    """Enemies without a target take the closest one in scan range, if it is their turn to look.

    Who loses its target because it leaves weapon range looks at once.

    Args:
        looks: [N, B] bool.
    """
    n = tables.n_allies
    target = world.target[n:]
    beyond = aim(world, tables).beyond
    in_range = beyond[n:] <= 0
    has_target = target >= 0
    keeps = has_target & (~world.engaged[n:] | in_range | (world.windup[n:] >= 0))
    score = root(near.squared[n:, :n]) - tables.scan
    healers = [healer for healer in tables.healers if healer.unit < n]
    for healer in healers:
        last = (tables.index[:n] == healer.unit) & ~_heals(world, healer, beyond)
        score = torch.where(score <= 0, score + EVERYWHERE * last, 2 * EVERYWHERE)
    nearest = score.amin(1)
    # Two reductions that run over whole rows of battles; `min` with its index does not.
    is_nearest = score == nearest[:, None]
    who = n - (is_nearest * (n - tables.number[None, :n])).amax(1).to(torch.int64)
    found = nearest <= (EVERYWHERE if healers else 0.0)
    takes = (looks[n:] | has_target) & ~keeps & found & (world.health[n:] > 0) & tables.armed[n:]
    # Pursuers stay with their target wherever it goes.
    engaged = has_target & (world.engaged[n:] | in_range) & ~takes & (not tables.pursues)
    return replace(
        world,
        target=torch.cat((world.target[:n], torch.where(takes, who, target))),
        engaged=torch.cat((world.engaged[:n], engaged)),
    )


def _heals(world: World, healer: Healer, beyond: Tensor) -> Tensor:
    """[B] bool: it is healing somebody."""
    unit = healer.unit
    return (world.order[unit] == HEAL) & (beyond[unit] <= 0) & (world.energy[unit] > 0)


def tend(world: World, tables: Tables, near: Pairs) -> World:
    """Enemy healers without a patient take the one of the lowest share of health, then the nearest.

    Without anybody to heal they go on with the order to attack, which see `EnemyHealers`.
    """
    for healer in tables.healers:
        if healer.unit < tables.n_allies:
            continue
        hurt = healer.patients & (world.health > 0) & (world.health < tables.health)
        distance = root(near.squared[healer.unit])
        share = torch.where(hurt & (distance <= healer.autocast), world.health / tables.health, 2.0)
        least = share.amin(0)
        distance = torch.where(share == least, distance, torch.inf)
        who = torch.where(distance == distance.amin(0), tables.index, tables.n_units).amin(0)
        able = (world.health[healer.unit] > 0) & (
            world.energy[healer.unit] >= healer.autocast_energy
        )
        takes = able & (least < 2.0) & (world.target[healer.unit] < 0)
        me = tables.index == healer.unit
        world = replace(world, target=torch.where(me & takes, who, world.target))
        if tables.enemy_healers == "follow":
            world = _with_its_army(world, healer, me)
    return world


def _with_its_army(world: World, healer: Healer, me: Tensor) -> World:
    """The healer's goal is the middle of those it can heal, while there are any."""
    army = (healer.patients & (world.health > 0)).to(world.x.dtype)
    size = army.sum(0)
    middle_x = on_grain((world.x * army).sum(0) / size.clamp_min(1))
    middle_y = on_grain((world.y * army).sum(0) / size.clamp_min(1))
    me = me & (size > 0)
    return replace(
        world,
        goal_x=torch.where(me, middle_x, world.goal_x),
        goal_y=torch.where(me, middle_y, world.goal_y),
    )


def respond_to_attacks(world: World, tables: Tables, near: Pairs, attacker: Tensor) -> World:
    """An enemy without a target turns on whoever hit it, or hit a friend within 4 of it.

    It was not the closest that it saw, so it counts as lost once somebody is in scan range.

    Args:
        attacker: [N, B] float32, 1 + the unit that has just hit each unit; 0 for nobody.
    """
    n = tables.n_allies
    close = near.squared[n:, n:] <= HELP_RADIUS**2
    heard = (attacker[None, n:] * close).amax(1).to(torch.int64) - 1
    free = (world.target[n:] < 0) & (heard >= 0) & tables.armed[n:] & (world.health[n:] > 0)
    if tables.enemies_miss:
        hits_back = tables.can_hit.view(tables.n_units, -1)[n:].gather(1, heard.clamp_min(0))
        free = free & hits_back
    target = torch.where(free, heard, world.target[n:])
    return replace(
        world,
        target=torch.cat((world.target[:n], target)),
        engaged=torch.cat((world.engaged[:n], world.engaged[n:] | free)),
    )
