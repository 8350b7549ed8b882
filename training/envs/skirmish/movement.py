"""Movement: where a unit heads, how it walks round those who stand, and keeping units apart."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from training.envs.skirmish.paths import CELLS, DIRECT
from training.envs.skirmish.scenario import MAP_SIZE
from training.envs.skirmish.world import (
    GRAIN,
    STOP,
    TURNS,
    Aim,
    Pairs,
    Tables,
    World,
    on_grain,
    pairs,
)

TURN_COSINE, TURN_SINE = 0.4617486, 0.8870108  # of 62.5 degrees, the turn of one game loop
CHANGE_SIDE = 60.0  # degrees of turn that a unit rather takes than to change sides
NUDGE = 1 / 64  # walked beyond the edge of weapon range, so that rounding never leaves it short


def move(world: World, tables: Tables, near: Pairs, line: Aim) -> World:
    """Who is under way takes a step, units that overlap then are pushed apart, and walls hold.

    Who swings or has its target in weapon range stands. Movers yield to those who stand and
    share the push among themselves; enemies block each other as friends do. A unit walks once
    it faces its way.
    """
    chases = world.target >= 0
    to_x = torch.where(chases, line.dx, world.goal_x - world.x)
    to_y = torch.where(chases, line.dy, world.goal_y - world.y)
    length = torch.sqrt(to_x * to_x + to_y * to_y)
    remaining = torch.where(chases, line.beyond + NUDGE, length)
    has_way = torch.where(chases, line.beyond > 0, (world.order != STOP) & (length > 0))
    walks = (world.health > 0) & (world.windup < 0) & has_way & (tables.speed > 0)
    norm = length.clamp_min(1e-6)  # a goal may lie between the points of the positions' grid
    to_x, to_y = to_x / norm, to_y / norm
    to_x, to_y = _round_walls(world, tables, to_x, to_y, length)
    cosine, sine, side, blocked = _free_turn(world, tables, near, walks, to_x, to_y)
    way_x, way_y = to_x * cosine - to_y * sine, to_x * sine + to_y * cosine
    face_x, face_y, faces = turned(world, way_x, way_y)
    goes = walks & ~blocked
    pace = world.pace
    speed = tables.speed
    if tables.accelerates:
        pace = torch.minimum(pace + tables.acceleration, speed).masked_fill(~(goes & faces), 0.0)
        speed = torch.where(tables.acceleration > 0, pace, speed)
    step = torch.minimum(speed, remaining).masked_fill(~(goes & faces), 0.0)
    pace = torch.minimum(pace, step)
    x = world.x + on_grain(way_x * step)
    y = world.y + on_grain(way_y * step)
    x, y = push_apart(world, tables, walks, x, y)
    x, y = _stay_on_ground(world, tables, x, y)
    face_x = torch.where(goes, face_x, world.face_x)
    face_y = torch.where(goes, face_y, world.face_y)
    return replace(world, x=x, y=y, pace=pace, side=side, face_x=face_x, face_y=face_y)


def _round_walls(
    world: World, tables: Tables, to_x: Tensor, to_y: Tensor, length: Tensor
) -> tuple[Tensor, Tensor]:
    """The way, a unit vector: on foot to a corner where the straight one leaves the ground."""
    if tables.route is None:
        return to_x, to_y
    here = _cell(world.x, world.y)
    there = _cell(world.x + to_x * length, world.y + to_y * length)
    corner = tables.route[here * CELLS + there].to(torch.int64)
    dx = (corner // MAP_SIZE) + 0.5 - world.x
    dy = (corner % MAP_SIZE) + 0.5 - world.y
    norm = torch.sqrt(dx * dx + dy * dy).clamp_min(1 / GRAIN)
    bends = (corner != DIRECT) & tables.on_foot
    return torch.where(bends, dx / norm, to_x), torch.where(bends, dy / norm, to_y)


def _cell(x: Tensor, y: Tensor) -> Tensor:
    column, row = (v.clamp(0, MAP_SIZE - 1).to(torch.int64) for v in (x, y))
    return column * MAP_SIZE + row


def turned(world: World, way_x: Tensor, way_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The facing after a loop of turning toward a way (a unit vector), and whether it faces it."""
    along = world.face_x * way_x + world.face_y * way_y
    across = world.face_x * way_y - world.face_y * way_x
    faces = along >= TURN_COSINE
    sine = torch.where(across < 0, -TURN_SINE, TURN_SINE)
    face_x = world.face_x * TURN_COSINE - world.face_y * sine
    face_y = world.face_x * sine + world.face_y * TURN_COSINE
    return torch.where(faces, way_x, face_x), torch.where(faces, way_y, face_y), faces


def _free_turn(
    world: World, tables: Tables, near: Pairs, walks: Tensor, to_x: Tensor, to_y: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The least turn off a way (a unit vector) that does not run into somebody standing close by.

    A heading runs into a circle of radius c at distance d if the circle's centre lies within
    asin(c / d) of it, that is if the centre's component along the heading exceeds
    sqrt(d^2 - c^2). A unit that walks round somebody keeps to the side it has chosen.
    Returns cosine and sine of the turn, its side, and whether every heading is blocked; [N, B].
    """
    stands = 1.0 - walks.to(to_x.dtype)
    target = world.target.to(to_x.dtype)
    free = (near.squared >= tables.notice * stands[None]) | (tables.number[None] == target[:, None])
    tangent = torch.sqrt((near.squared - tables.clearance_squared).clamp_min(0))
    tangent = tangent.masked_fill(free, torch.inf)
    ahead = near.dx * to_x[:, None] + near.dy * to_y[:, None]
    aside = near.dy * to_x[:, None] - near.dx * to_y[:, None]  # positive to the left
    inside = [(ahead - tangent).amax(1)]
    for cosine, sine in TURNS:
        along, across = ahead * cosine - tangent, aside * sine
        inside += [(along + across).amax(1), (along - across).amax(1)]
    changes = world.side[None] * tables.turn_side < 0
    cost = tables.turn_cost + changes * CHANGE_SIDE
    least, choice = cost.masked_fill(torch.stack(inside) > 0, torch.inf).min(0)
    blocked = torch.isinf(least)
    side = torch.where(blocked, world.side, tables.turn_sides[choice])
    return tables.turn_cosine[choice], tables.turn_sine[choice], side, blocked


def push_apart(
    world: World, tables: Tables, walks: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Move units that overlap away from each other; who stands makes room for who stands only.

    Who cannot walk is not moved: others make room for it loop by loop.
    """
    near = pairs(world.health, x, y, tables)
    yields = walks.to(x.dtype) * 0.5
    share = (0.5 + yields[:, None]) - yields[None]
    # Clearance over distance, less 1: the overlap in units of the distance.
    overlap = torch.sqrt(tables.clearance_squared / near.squared.clamp_min(GRAIN**-2)) - 1.0
    push = overlap.clamp_min(0.0) * share
    # The tiny `apart` tells two units on the very same spot which way to go.
    push_x = on_grain(push * (near.dx + tables.apart)).sum(1)
    push_y = on_grain(push * near.dy).sum(1)
    mobile = tables.speed > 0
    return x - push_x * mobile, y - push_y * mobile


def _stay_on_ground(world: World, tables: Tables, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cancel, axis by axis, a displacement that would bring a unit's circle over a wall.

    A crowd's push has a limit along each axis: nobody's centre gets into a cell of wall whose
    other side the circle's edge has passed in the same loop, which is all that is looked at.
    """
    furthest = (1.0 - 1 / GRAIN - tables.separation).clamp_min(0.25)
    step_x = (x - world.x).clamp(-furthest, furthest)
    step_y = (y - world.y).clamp(-furthest, furthest)
    x, y = world.x + step_x, world.y + step_y
    x = torch.where(on_ground(tables, x + tables.separation * step_x.sign(), world.y), x, world.x)
    y = torch.where(on_ground(tables, x, y + tables.separation * step_y.sign()), y, world.y)
    return x, y


def on_ground(tables: Tables, x: Tensor, y: Tensor) -> Tensor:
    """Whether each unit may be at its place, [N, B] bool."""
    column = (x + 1).clamp(0, MAP_SIZE + 1).to(torch.int64)
    row = (y + 1).clamp(0, MAP_SIZE + 1).to(torch.int64)
    return tables.pathable[tables.ground + column * (MAP_SIZE + 2) + row]
