"""Movement: where a unit heads, how it walks round those who stand, and keeping units apart."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from training.envs.skirmish.paths import CELLS, DIRECT
from training.envs.skirmish.scenario import MAP_SIZE
from training.envs.skirmish.world import (
    GRAIN,
    MOVE,
    STOP,
    TURNS,
    Aim,
    Pairs,
    Tables,
    World,
    on_grain,
    pairs,
    root,
)

PUSHES = 2  # rounds of pushing in a loop: in a crowd one leaves units in each other
CHANGE_SIDE = 60.0  # degrees of turn that a unit rather takes than to change sides
NUDGE = 1 / 64  # walked beyond the edge of weapon range, so that rounding never leaves it short


def move(world: World, tables: Tables, near: Pairs, line: Aim) -> World:
    """Who is under way takes a step, units that overlap then are pushed apart, and walls hold.

    Who swings or has its target in weapon range stands, and after a blow does not go after
    anybody for a while. Turning takes no time. Where units run into each other see `push_apart`.
    """
    chases = world.target >= 0
    to_x = torch.where(chases, line.dx, world.goal_x - world.x)
    to_y = torch.where(chases, line.dy, world.goal_y - world.y)
    squared = to_x * to_x + to_y * to_y
    length = root(squared)
    remaining = torch.where(chases, line.beyond + NUDGE, length)
    has_way = torch.where(chases, line.beyond > 0, (world.order != STOP) & (squared > 0))
    recovers = (world.recovery > 0) & (world.order != MOVE)
    walks = (world.health > 0) & (world.windup < 0) & ~recovers & has_way & (tables.speed > 0)
    fights = chases & ~walks
    norm = length.clamp_min(1e-6)  # a goal may lie between the points of the positions' grid
    to_x, to_y = _round_walls(world, tables, to_x / norm, to_y / norm, length)
    cosine, sine, side, blocked = _free_turn(world, tables, near, walks, fights, to_x, to_y)
    goes = walks & ~blocked
    pace, speed = world.pace, tables.speed
    if tables.accelerates:
        pace = torch.minimum(pace + tables.acceleration, speed).masked_fill(~goes, 0.0)
        speed = torch.where(tables.acceleration > 0, pace, speed)
    step = torch.minimum(speed, remaining).masked_fill(~goes, 0.0)
    pace = torch.minimum(pace, step)
    way_x, way_y = to_x * cosine - to_y * sine, to_x * sine + to_y * cosine
    x = world.x + whole_grains(way_x * step)
    y = world.y + whole_grains(way_y * step)
    for _ in range(PUSHES):
        x, y = push_apart(world, tables, walks, fights, x, y)
    x, y = _stay_on_ground(world, tables, x, y)
    face_x = torch.where(goes, way_x, world.face_x)
    face_y = torch.where(goes, way_y, world.face_y)
    return replace(world, x=x, y=y, face_x=face_x, face_y=face_y, pace=pace, side=side)


def whole_grains(length: Tensor) -> Tensor:
    """What the engine makes of a step: its length along an axis, cut to a multiple of 1/4096.

    A millionth more is taken, so that rounding does not cut what is whole.
    """
    return torch.trunc(length * (GRAIN * (1 + 1e-6))) * (1 / GRAIN)


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
    norm = root(dx * dx + dy * dy).clamp_min(1 / GRAIN)
    bends = (corner != DIRECT) & tables.on_foot
    return torch.where(bends, dx / norm, to_x), torch.where(bends, dy / norm, to_y)


def _cell(x: Tensor, y: Tensor) -> Tensor:
    column, row = (v.clamp(0, MAP_SIZE - 1).to(torch.int64) for v in (x, y))
    return column * MAP_SIZE + row


def _free_turn(
    world: World,
    tables: Tables,
    near: Pairs,
    walks: Tensor,
    fights: Tensor,
    to_x: Tensor,
    to_y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The least turn off a way (a unit vector) that does not run into somebody standing ahead.

    Friends who stand idle make room, and are not walked round.

    A heading runs into a circle of radius c at distance d if the circle's centre lies within
    asin(c / d) of it, that is if the centre's component along the heading exceeds
    sqrt(d^2 - c^2): here both are squared. A unit that walks round somebody keeps to the side it
    has chosen. Returns cosine and sine of the turn, its side, and whether every heading is
    blocked; [N, B].
    """
    stands = 1.0 - walks.to(to_x.dtype)
    idle = stands - fights.to(to_x.dtype)
    blocks = stands[None] - idle[None] * tables.same_side
    target = world.target.to(to_x.dtype)
    free = (near.squared >= tables.notice * blocks) | (tables.number[None] == target[:, None])
    tangent = (near.squared - tables.clearance * tables.clearance).clamp_min(0)
    tangent = tangent.masked_fill(free, torch.inf)
    ahead = near.dx * to_x[:, None] + near.dy * to_y[:, None]
    aside = near.dy * to_x[:, None] - near.dx * to_y[:, None]  # positive to the left

    def hits(along: Tensor) -> Tensor:
        along = along.clamp_min(0)
        return (along * along - tangent).amax(1)

    inside = [hits(ahead)]
    for cosine, sine in TURNS:
        along, across = ahead * cosine, aside * sine
        inside += [hits(along + across), hits(along - across)]
    changes = world.side[None] * tables.turn_side < 0
    cost = tables.turn_cost + changes * CHANGE_SIDE
    least, choice = cost.masked_fill(torch.stack(inside) > 0, torch.inf).min(0)
    blocked = torch.isinf(least)
    side = torch.where(blocked, world.side, tables.turn_sides[choice])
    return tables.turn_cosine[choice], tables.turn_sine[choice], side, blocked


def push_apart(
    world: World, tables: Tables, walks: Tensor, fights: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Move units that overlap away from each other.

    Who fights does not give way to others, who stands idle gives way to friends that walk into
    it, and not to enemies; those who are alike share the way. (Seen in replays of the real game:
    attackers are not pushed, idle friends are pushed by the whole step.)
    """
    near = pairs(world.health, x, y, tables)
    walking, fighting = walks.to(x.dtype), fights.to(x.dtype)
    # How easily somebody gives way: to friends 0 fighting, 1 walking, 2 idle; to enemies 1 if
    # walking, else 0.
    to_friends, to_enemies = 2.0 - walking - 2.0 * fighting, walking
    ease = to_enemies[:, None] + tables.same_side * (to_friends - to_enemies)[:, None]
    others = to_enemies[None] + tables.same_side * (to_friends - to_enemies)[None]
    share = (0.5 + 0.5 * (ease - others)).clamp(0.0, 1.0)
    # Clearance over distance, less 1: the overlap in units of the distance.
    overlap = tables.clearance * torch.rsqrt(near.squared.clamp_min(GRAIN**-2)) - 1.0
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
