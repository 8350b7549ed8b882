"""Weapons and heals: swings, missiles, lines and bursts, and what a hit does to a body."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from training.envs.skirmish.world import (
    GRAIN,
    HEAL,
    NOBODY,
    STOP,
    Aim,
    Line,
    Tables,
    World,
    of_target,
    on_grain,
    root,
)

SHIELD_DELAY = 160.0  # game loops without damage before shields regenerate
TURN_COSINE, TURN_SINE = 0.4617486, 0.8870108  # of 62.5 degrees, the turn of one game loop
MIN_DAMAGE = 0.5  # of a hit on health, whatever the armor


class Hits(NamedTuple):
    """Who strikes in this loop, all [N, B] by attacker; nobody strikes twice in a loop."""

    struck: Tensor
    """bool; a blow at `target` or, for who has such a weapon, a line through it or a burst."""
    target: Tensor
    """int64."""
    damage: Tensor
    """float32, before shields and armor; 0 for lines and bursts."""
    homing: Tensor
    """bool: a missile arrives, which its shooter's death does not stop."""


class Loss(NamedTuple):
    """What a loop's hits take from each unit, [N, B]."""

    shield: Tensor
    health: Tensor
    attacker: Tensor
    """float32: 1 + the unit that hit it, one of several; 0 for nobody."""


def swing(world: World, tables: Tables, line: Aim, jitter: Tensor) -> tuple[World, Hits]:
    """Begin, continue or abort swings; what reaches its damage point strikes or is launched.

    Who has its target in range turns to face it, and swings once it does. What is left of a loop
    when the cooldown has run out counts for the next one. A swing that is aborted before its
    damage point costs no cooldown.
    """
    alive = world.health > 0
    armed = alive & (world.target >= 0) & tables.armed
    swinging = world.windup >= 0
    goes_on = swinging & armed & (line.beyond <= tables.slop)
    aims = armed & (line.beyond <= 0)
    gap = line.distance.clamp_min(1 / GRAIN)
    face_x, face_y, faces = _turned(world, tables, line.dx / gap, line.dy / gap)
    begins = aims & ~swinging & faces & (world.cooldown <= 0)
    windup = torch.where(begins, tables.damage_point, world.windup - 1)
    windup = windup.masked_fill(~(goes_on | begins), -1.0)
    strikes = windup == 0
    cooldown = world.cooldown + begins * (tables.period + jitter)

    arrives = (world.pending == 1) & (alive | tables.missile)
    edge_distance = (line.beyond + tables.weapon_range).clamp_min(0)
    at_once = tables.strikes_at_once | (edge_distance <= tables.melee_range)
    delay = torch.where(tables.missile, _flight(tables, edge_distance), tables.delay)
    launches = strikes & (delay > 0) & ~(at_once & tables.missile)
    target = torch.where(arrives, world.pending_target, world.target)
    hits = Hits(
        struck=arrives | (strikes & at_once),
        target=target,
        damage=tables.between(tables.damage, target),
        homing=arrives & tables.missile,
    )
    world = replace(
        world,
        face_x=torch.where(aims, face_x, world.face_x),
        face_y=torch.where(aims, face_y, world.face_y),
        windup=windup.masked_fill(strikes, -1.0),
        recovery=torch.where(strikes, tables.backswing, (world.recovery - 1).clamp_min(0)),
        cooldown=cooldown.masked_fill(swinging & ~goes_on, 0.0),
        pending=torch.where(launches, delay, (world.pending - 1).clamp_min(0)),
        pending_target=torch.where(launches, world.target, world.pending_target),
    )
    return world, hits


def _turned(
    world: World, tables: Tables, way_x: Tensor, way_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The facing after a loop of turning toward a way (a unit vector), and whether one can fire."""
    along = world.face_x * way_x + world.face_y * way_y
    across = world.face_x * way_y - world.face_y * way_x
    faces = along >= TURN_COSINE
    sine = torch.where(across < 0, -TURN_SINE, TURN_SINE)
    face_x = torch.where(faces, way_x, world.face_x * TURN_COSINE - world.face_y * sine)
    face_y = torch.where(faces, way_y, world.face_x * sine + world.face_y * TURN_COSINE)
    return face_x, face_y, faces | (face_x * way_x + face_y * way_y >= tables.arc_cosine)


def _flight(tables: Tables, edge_distance: Tensor) -> Tensor:
    """Whole game loops a missile takes to its target; it homes and always arrives.

    A millionth less is taken, so that rounding adds no loop to what is whole.
    """
    loops = edge_distance / tables.missile_speed.clamp_min(1e-6)
    return torch.ceil(loops * (1 - 1e-6)).clamp_min(1)


def apply_hits(
    world: World, tables: Tables, hits: Hits, allies_first: Tensor
) -> tuple[World, Tensor]:
    """Let the loop's hits land, those of one side first, and the dead fall.

    Who is killed by the side that goes first does not strike, though its missiles arrive. So it
    takes two passes: the first lets everybody strike and finds who does not live to do so.
    Returns also `Loss.attacker`.

    Args:
        allies_first: [B] bool.
    """
    # A line that has been fired burns where its target stood, also if that has died since.
    lives = (of_target(world.health, hits.target) > 0) | tables.sweeps
    struck = hits.struck & (hits.target >= 0) & lives
    late = torch.where(tables.index < tables.n_allies, ~allies_first, allies_first)
    dies = _losses(world, tables, hits, struck).health >= world.health
    loss = _losses(world, tables, hits, struck & (hits.homing | ~(dies & late)))
    before, health = world.health, (world.health - loss.health).clamp_min(0)
    hurt = loss.attacker > 0
    world = replace(
        world,
        health=health,
        shield=world.shield - loss.shield,
        shield_wait=world.shield_wait.masked_fill(hurt, SHIELD_DELAY),
    )
    if tables.bursts:
        world = _burst(world, tables, before, struck)
    dead = world.health <= 0
    world = replace(
        world,
        order=world.order.masked_fill(dead, STOP),
        target=world.target.masked_fill(dead, NOBODY),
        windup=world.windup.masked_fill(dead, -1.0),
    )
    return world, loss.attacker


def _losses(world: World, tables: Tables, hits: Hits, struck: Tensor) -> Loss:
    """What the blows of `struck` and the lines among them take. Sides hit each other alone."""
    n = tables.n_allies
    of_allies = _blows(world, tables, hits, struck, slice(0, n), slice(n, None))
    of_enemies = _blows(world, tables, hits, struck, slice(n, None), slice(0, n))
    loss = Loss(*(torch.cat(parts) for parts in zip(of_enemies, of_allies, strict=True)))
    for sweep in tables.lines:
        loss = _swept(world, tables, sweep, hits, struck, loss)
    return loss


def _blows(
    world: World, tables: Tables, hits: Hits, struck: Tensor, ours: slice, theirs: slice
) -> Loss:
    """What one side's single blows take from the other.

    Shields (of armor 0) take a hit first, in the order of the attackers' numbers; what is left
    of it is reduced by armor and taken from health.
    """
    target = hits.target[ours].to(world.x.dtype)
    damage = hits.damage[ours] * struck[ours]
    number = tables.number[ours]
    to_shield = torch.zeros_like(damage)
    if tables.has_shields:
        earlier = (target[:, None] == target[None]) & (number[:, None] > number[None, :])
        before = (earlier * damage[None]).sum(1)
        shield = of_target(world.shield, hits.target[ours])
        to_shield = torch.minimum((shield - before).clamp_min(0), damage)
    overflow = damage - to_shield
    armor = of_target(tables.armor, hits.target[ours])
    to_health = (overflow - armor).clamp_min(MIN_DAMAGE).masked_fill(overflow <= 0, 0.0)
    # Masks as float32: a product and a sum are the fastest way to add up.
    aimed_at = (target[None] == tables.number[theirs][:, None]).to(world.x.dtype)
    landed = (number + 1) * (damage > 0)
    return Loss(
        (aimed_at * to_shield[None]).sum(1),
        (aimed_at * to_health[None]).sum(1),
        (aimed_at * landed[None]).amax(1),
    )


def _swept(
    world: World, tables: Tables, sweep: Line, hits: Hits, struck: Tensor, loss: Loss
) -> Loss:
    """`loss` and what a line takes that lies across the shot, through the target's place."""
    n, unit = tables.n_allies, sweep.unit
    theirs = slice(n, None) if unit < n else slice(0, n)
    target = hits.target[unit].clamp_min(0)[None]
    at_x, at_y = world.x.gather(0, target), world.y.gather(0, target)
    shot_x, shot_y = at_x - world.x[unit], at_y - world.y[unit]
    length = root(shot_x * shot_x + shot_y * shot_y).clamp_min(1 / GRAIN)
    dx, dy = world.x[theirs] - at_x, world.y[theirs] - at_y
    deep = (dx * shot_x + dy * shot_y) / length
    along = ((dx * shot_y - dy * shot_x) / length).abs()
    past_end = (along - sweep.half_length).clamp_min(0)
    on_line = (deep * deep + past_end * past_end <= sweep.edge * sweep.edge) & (sweep.edge > 0)
    on_line = on_line & struck[unit] & (world.health[theirs] > 0)
    shield_left = world.shield[theirs] - loss.shield[theirs]
    count = on_line * sweep.beams
    to_shield, to_health = _equal_hits(shield_left, count, sweep.damage, tables.armor[theirs])
    attacker = torch.maximum(loss.attacker[theirs], on_line * float(unit + 1))
    return Loss(
        _added(loss.shield, to_shield, theirs),
        _added(loss.health, to_health, theirs),
        torch.cat((loss.attacker[:n], attacker) if unit < n else (attacker, loss.attacker[n:])),
    )


def _added(values: Tensor, some: Tensor, where: slice) -> Tensor:
    """[N, B] `values` with `some` added to one side's."""
    if where.start:
        return torch.cat((values[: where.start], values[where] + some))
    return torch.cat((values[where] + some, values[where.stop :]))


def _equal_hits(
    shield: Tensor, count: Tensor, damage: Tensor, armor: Tensor
) -> tuple[Tensor, Tensor]:
    """What `count` hits of the same damage take from shield and from health."""
    absorbed = torch.minimum(shield, count * damage)
    whole = torch.floor(shield / damage)  # hits that the shield takes wholly
    first = (whole + 1) * damage - shield  # what the next one leaves for health
    rest = (count - whole - 1).clamp_min(0)
    to_health = (first - armor).clamp_min(MIN_DAMAGE) + rest * (damage - armor).clamp_min(
        MIN_DAMAGE
    )
    return absorbed, to_health.masked_fill(count <= whole, 0.0)


def _burst(world: World, tables: Tables, before: Tensor, struck: Tensor) -> World:
    """Who bursts, because it struck or because it has just died, dies and hits all around it.

    A burst that kills one of the other side's sets that off in turn: a chain of such rounds.

    Args:
        before: [N, B] health before this loop's hits.
    """
    n = tables.n_allies
    spent = torch.zeros_like(struck)
    for _ in range(tables.burst_rounds):
        goes = tables.can_burst & (before > 0) & (struck | (world.health <= 0)) & ~spent
        spent = spent | goes
        shield, health, wait = world.shield, world.health.masked_fill(goes, 0.0), world.shield_wait
        for burst in tables.bursts:
            theirs = slice(n, None) if burst.by_allies else slice(0, n)
            dx = world.x[None, theirs] - world.x[burst.units][:, None]
            dy = world.y[None, theirs] - world.y[burst.units][:, None]
            reached = (dx * dx + dy * dy <= burst.edge_squared) & goes[burst.units][:, None]
            count = reached.sum(0).to(health.dtype)
            losses = _equal_hits(shield[theirs], count, burst.damage, tables.armor[theirs])
            shield = _added(shield, -losses[0], theirs)
            health = _added(health, -losses[1], theirs).clamp_min(0)
            wait = torch.maximum(wait, _added(torch.zeros_like(wait), count, theirs) * SHIELD_DELAY)
        world = replace(
            world, shield=shield, health=health, shield_wait=wait.clamp_max(SHIELD_DELAY)
        )
    return world


def heal(world: World, tables: Tables, line: Aim) -> World:
    """Healers with their patient in range restore its health; whoever is well needs them no more.

    `line` is taken from the beginning of the loop.
    """
    for healer in tables.healers:
        unit = healer.unit
        patient = (world.target[unit] == tables.index) & healer.patients & (world.health > 0)
        missing = ((tables.health - world.health) * patient).sum(0)
        works = (line.beyond[unit] <= 0) & (world.health[unit] > 0)
        affords = world.energy[unit] / healer.cost
        given = on_grain(torch.minimum(missing.clamp_max(healer.rate), affords)) * works
        me = tables.index == unit
        well = me & (world.target[unit] >= 0) & (missing <= given)
        world = replace(
            world,
            health=world.health + patient * given,
            energy=(world.energy - me * (given * healer.cost)).clamp_min(0),
            target=world.target.masked_fill(well, NOBODY),
            order=world.order.masked_fill(well & (world.order == HEAL), STOP),
        )
    return world
