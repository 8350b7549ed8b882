"""Weapons: the swing, missiles and second strikes, and what a hit does to shields and health."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from training.envs.skirmish.movement import turned
from training.envs.skirmish.world import GRAIN, NOBODY, STOP, Aim, Tables, World, of_target

SHIELD_DELAY = 160.0  # game loops without damage before shields regenerate
MIN_DAMAGE = 0.5  # of a hit on health, whatever the armor
CHAIN_PASSES = 2
LAST_TURN = float(1 << 24)  # above every rank; float32 counts exactly up to here


class Hits(NamedTuple):
    """Who strikes whom in this loop, all [N, B] by attacker; nobody strikes twice in a loop."""

    struck: Tensor
    """bool."""
    target: Tensor
    """int64."""
    damage: Tensor
    """float32, before shields and armor."""
    homing: Tensor
    """bool: a missile arrives, which its shooter's death does not stop."""


def swing(world: World, tables: Tables, line: Aim, jitter: Tensor) -> tuple[World, Hits]:
    """Begin, continue or abort swings; what reaches its damage point strikes or is launched.

    Who has its target in range turns to face it, and swings once it does. A swing that is
    aborted before its damage point costs no cooldown.
    """
    alive = world.health > 0
    armed = alive & (world.target >= 0)
    swinging = world.windup >= 0
    goes_on = swinging & armed & (line.beyond <= tables.slop)
    aims = armed & (line.beyond <= 0)
    gap = line.distance.clamp_min(1 / GRAIN)
    face_x, face_y, faces = turned(world, line.dx / gap, line.dy / gap)
    begins = aims & ~swinging & faces & (world.cooldown == 0)
    windup = torch.where(begins, tables.damage_point, world.windup - 1)
    windup = windup.masked_fill(~(goes_on | begins), -1.0)
    strikes = windup == 0
    cooldown = torch.where(begins, tables.period + jitter, world.cooldown)

    arrives = (world.pending == 1) & (alive | tables.missile)
    delay = torch.where(tables.missile, _flight(tables, line.beyond), tables.strike_delay)
    launches = strikes & (delay > 0)
    target = torch.where(arrives, world.pending_target, world.target)
    hits = Hits(
        struck=arrives | (strikes & ~tables.missile),
        target=target,
        damage=tables.between(tables.damage, target),
        homing=arrives & tables.missile,
    )
    world = replace(
        world,
        face_x=torch.where(aims, face_x, world.face_x),
        face_y=torch.where(aims, face_y, world.face_y),
        windup=windup.masked_fill(strikes, -1.0),
        cooldown=cooldown.masked_fill(swinging & ~goes_on, 0.0),
        pending=torch.where(launches, delay, (world.pending - 1).clamp_min(0)),
        pending_target=torch.where(launches, world.target, world.pending_target),
    )
    return world, hits


def _flight(tables: Tables, beyond: Tensor) -> Tensor:
    """Whole game loops a missile takes to its target; it homes and always arrives."""
    edge_distance = (beyond + tables.weapon_range).clamp_min(0)
    return torch.ceil(edge_distance / tables.missile_speed.clamp_min(1e-6)).clamp_min(1)


def apply_hits(world: World, tables: Tables, hits: Hits, rank: Tensor) -> tuple[World, Tensor]:
    """Let the loop's hits land in the order of `rank`, and the dead fall.

    A unit killed before its turn does not strike; a blow at somebody already dead is lost (a
    missile is wasted). Returns also, for each unit, somebody who has just hit it, or NOBODY.

    Who strikes depends on who has died before, and that on who has struck: the first pass lets
    everybody strike, the second only who is then certain to be alive. That settles "C kills B, who
    would have killed A"; chains of four kills in one loop would take a third.

    Pair masks are float32 zeros and ones: a product and a sum are the fastest way to add up.
    """
    target = hits.target.to(rank.dtype)
    victim = _Victims(world, tables, hits)
    struck = hits.struck & (hits.target >= 0) & (victim.health > 0)
    earlier = ((rank[None] < rank[:, None]) & (target[None] == target[:, None])).to(rank.dtype)
    aimed_at = (target[None] == tables.number[:, None]).to(rank.dtype)  # by victim, then attacker

    alive_to_strike = struck
    for _ in range(CHAIN_PASSES):
        _, fatal, _, _ = victim.land(alive_to_strike, earlier)
        time_left = (aimed_at * ((LAST_TURN - rank) * fatal)[None]).amax(1)  # 0 for who survives
        alive_to_strike = struck & (hits.homing | (rank <= LAST_TURN - time_left))
    landed, _, to_shield, to_health = victim.land(alive_to_strike, earlier)

    shield_loss = (aimed_at * (to_shield * landed)[None]).sum(1)
    health_loss = (aimed_at * (to_health * landed)[None]).sum(1)
    attacker = (aimed_at * ((tables.number + 1) * landed)[None]).amax(1).to(torch.int64) - 1
    health = (world.health - health_loss).clamp_min(0)
    dead = health <= 0
    world = replace(
        world,
        health=health,
        shield=world.shield - shield_loss,
        shield_wait=world.shield_wait.masked_fill(attacker >= 0, SHIELD_DELAY),
        order=world.order.masked_fill(dead, STOP),
        target=world.target.masked_fill(dead, NOBODY),
        windup=world.windup.masked_fill(dead, -1.0),
    )
    return world, attacker


class _Victims:
    """The one each attacker strikes at, as it stood before this loop's hits."""

    def __init__(self, world: World, tables: Tables, hits: Hits) -> None:
        self.health = of_target(world.health, hits.target)
        self._shield = of_target(world.shield, hits.target)
        self._armor = of_target(tables.armor, hits.target)
        self._damage = hits.damage

    def land(self, struck: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What each blow of `struck` does, given those `earlier` [N, N, B] at the same victim.

        Shields (of armor 0) take a hit first; what is left of it is reduced by armor and taken
        from health. Returns landed and fatal (bool), losses of shield and of health; [N, B].
        """
        damage = self._damage
        damage_before = (earlier * (damage * struck)[None]).sum(1)
        to_shield = torch.minimum((self._shield - damage_before).clamp_min(0), damage)
        overflow = damage - to_shield
        to_health = (overflow - self._armor).clamp_min(MIN_DAMAGE).masked_fill(overflow <= 0, 0.0)
        health_left = self.health - (earlier * (to_health * struck)[None]).sum(1)
        landed = struck & (health_left > 0)
        return landed, landed & (to_health >= health_left), to_shield, to_health
