"""The battle's state as tensors, the tables that never change, and the geometry between units.

Layout: units first, battles last. N units (allies 0..n-1, then enemies), B battles; unit tensors
are [N, B], pair tensors [N, N, B] with the unit that looks first and the one looked at second.
With B innermost every reduction runs over whole rows of battles, which is fast and, because all
sums here are of numbers that float32 adds exactly, gives the same bits whatever B is:
damage is a multiple of 1/8, health, shields and heals are multiples of the engine's 1/4096, and
pushes are rounded to it before they are summed.

`loop.py` advances it by one game loop. The rules are those of the Wings of Liberty engine as far
as they are known; FIDELITY.md says what is known, what was chosen and what is open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.envs.skirmish.formation import CONTACT, place
from training.envs.skirmish.options import EnemyHealers
from training.envs.skirmish.paths import routes
from training.envs.skirmish.scenario import (
    MAP_SIZE,
    MOVERS,
    Scenario,
    Terrain,
    UnitType,
    Weapon,
)

STOP, MOVE, ATTACK, ATTACK_MOVE, HEAL = 0, 1, 2, 3, 4  # orders
NOBODY = -1

EVERYWHERE = 100.0  # further than any two points of a map lie apart
UNARMED = Weapon(
    damage=0.0,
    bonus={},
    period=0.0,
    range=0.0,
    range_slop=0.0,
    damage_point=0,
    arc=0.0,
    backswing=0,
    targets=frozenset(),
    delivery="instant",
    missile_speed=0.0,
    melee_range=-1.0,
    delay=0,
    beams=1,
    line_length=0.0,
    line_width=0.0,
    burst_radius=0.0,
)
SINGLE_BLOWS = ("instant", "missile", "two_strikes", "delayed")
STRIKES_AT_ONCE = ("instant", "two_strikes", "burst")
MIN_SCAN_RANGE = 5.0  # a weapon looks this far for targets even where it does not reach
SCAN_BEYOND = 0.5  # and this far beyond its reach
LOOKAHEAD = 0.1  # how far before contact a unit begins to walk round somebody who stands
TURN_DEGREES = (45, 90, 135)  # the ways off a heading, to either side
TURNS = tuple((math.cos(math.radians(d)), math.sin(math.radians(d))) for d in TURN_DEGREES)
GRAIN = 4096.0  # positions are multiples of 1/4096, as in the engine's fixed-point numbers


@dataclass(frozen=True)
class World:
    """Everything that changes in a battle."""

    x: Tensor
    """[N, B] float32, multiples of 1/4096."""
    y: Tensor
    face_x: Tensor
    """[N, B] float32, with face_y a unit vector: where the unit looks."""
    face_y: Tensor
    health: Tensor
    """[N, B] float32; 0 is dead, and position and shield then keep their last values."""
    shield: Tensor
    shield_wait: Tensor
    """[N, B] float32, game loops before shields regenerate."""
    energy: Tensor
    """[N, B] float32; 0 for all but healers."""
    cooldown: Tensor
    """[N, B] float32, game loops before the next swing may begin."""
    windup: Tensor
    """[N, B] float32, game loops to the damage point; -1 when not swinging."""
    recovery: Tensor
    """[N, B] float32, game loops in which it still does not walk after a target."""
    order: Tensor
    """[N, B] int64, one of STOP, MOVE, ATTACK, ATTACK_MOVE, HEAL."""
    target: Tensor
    """[N, B] int64, the unit attacked, healed or chased, or NOBODY."""
    engaged: Tensor
    """[N, B] bool, the target has been in weapon range, or was named by a call for help: it is
    lost once it is out of weapon range."""
    goal_x: Tensor
    """[N, B] float32, where a move or an attack-move leads."""
    goal_y: Tensor
    pace: Tensor
    """[N, B] float32, distance covered in the last game loop; for who accelerates."""
    side: Tensor
    """[N, B] float32, the side on which it walks round somebody: 1 left, -1 right, 0 neither."""
    pending: Tensor
    """[N, B] float32, game loops until a missile or a second strike lands; 0 when none is due."""
    pending_target: Tensor
    """[N, B] int64."""

    def where(self, mask: Tensor, other: World) -> World:
        """This world in the battles of `mask` [B], the other elsewhere."""
        return World(
            **{
                f.name: torch.where(mask, getattr(self, f.name), getattr(other, f.name))
                for f in fields(self)
            }
        )


@dataclass(frozen=True)
class Tables:
    """What never changes on a map: numbers of units, pair tables, the ground; and what there is.

    The plain numbers and tuples at the end say which rules a map needs at all: code that looks at
    them leaves the others out.
    """

    n_allies: int
    n_units: int
    health: Tensor
    """This and all others of units: [N, 1] float32 unless said otherwise."""
    shield: Tensor
    armor: Tensor
    speed: Tensor
    acceleration: Tensor
    """Distance per loop squared; 0 for who is at full speed at once."""
    health_regen: Tensor
    """This and energy_regen: per loop."""
    energy: Tensor
    """The most a healer can have; 0 for others."""
    energy_at_start: Tensor
    energy_regen: Tensor
    reach: Tensor
    """[N * N] centre distance at which a target is in range of the weapon, or of the heal, by
    who looks and who is looked at."""
    weapon_range: Tensor
    """Edge to edge."""
    slop: Tensor
    """How much further a target may drift during the swing."""
    can_hit: Tensor
    """[N * N] bool, by attacker and target."""
    armed: Tensor
    """[N, 1] bool."""
    arc_cosine: Tensor
    """Cosine of the angle off its facing at which a unit still fires; 2 for who must face its
    target."""
    scan: Tensor
    """[k, n, 1] centre distance within which an enemy looks for targets, by enemy and ally;
    negative for whom it cannot hit."""
    clearance: Tensor
    """[N, N, 1] centre distance down to which two units do not disturb each other; 0 for who can
    stand in each other."""
    notice: Tensor
    """[N, N, 1] squared centre distance within which somebody standing is walked round; 0 for
    who can stand in each other."""
    same_side: Tensor
    """[N, N, 1] float32: 1 for units of one side."""
    separation: Tensor
    turn_cost: Tensor
    """[1 + 2 * len(TURNS), 1, 1] degrees of each turn; straight on, then left and right in turn."""
    turn_side: Tensor
    """The same shape: 1 left, -1 right, 0 straight on."""
    turn_sides: Tensor
    """[1 + 2 * len(TURNS)], as the two below."""
    turn_cosine: Tensor
    turn_sine: Tensor
    damage: Tensor
    """[N * N] damage of one hit by attacker and target, bonus included; 0 for lines and bursts."""
    period: Tensor
    damage_point: Tensor
    backswing: Tensor
    missile: Tensor
    """[N, 1] bool."""
    missile_speed: Tensor
    """Distance per loop; 0 for weapons without a missile."""
    melee_range: Tensor
    """Edge to edge; within it a missile's shooter strikes at once. Negative: never."""
    delay: Tensor
    """Loops from the damage point to a second or a delayed strike; 0 for weapons without one."""
    strikes_at_once: Tensor
    """[N, 1] bool: something lands at the damage point itself."""
    sweeps: Tensor
    """[N, 1] bool: its weapon is a line."""
    apart: Tensor
    """[N, N, 1] tiny, antisymmetric: which way two units on one spot are pushed."""
    grave: Tensor
    """x of a dead unit for all that looks at pairs."""
    index: Tensor
    """[N, 1] int64, 0..N-1."""
    number: Tensor
    """The same as float32, which is faster to compare in pairs."""
    pathable: Tensor
    """[3 * 34 * 34] bool, the cells where each kind of mover may be, with a border where
    nobody may."""
    ground: Tensor
    """[N, 1] int64, where a unit's kind of mover begins in `pathable`."""
    route: Tensor | None
    """[1024 * 1024] int16, see `paths.py`; None where no straight way leaves the ground."""
    on_foot: Tensor
    """[N, 1] bool: keeps to the pathable ground, and so to `route`."""
    lines: tuple[Line, ...]
    """The units whose weapon sweeps a line."""
    bursts: tuple[Burst, ...]
    """The units that burst."""
    healers: tuple[Healer, ...]
    enemy_healers: EnemyHealers
    accelerates: bool
    enemies_miss: bool
    """Some enemy that has a weapon cannot hit some ally with it."""
    has_shields: bool
    regenerates: bool
    pursues: bool
    """The enemies go for the allies wherever they are."""
    burst_rounds: int
    """How long a chain of bursts can be."""
    can_burst: Tensor
    """[N, 1] bool."""

    def between(self, table: Tensor, target: Tensor) -> Tensor:
        """The entry of an [N * N] table for each unit and its target, [N, B]."""
        return table[self.index * self.n_units + target.clamp_min(0)]


class Line(NamedTuple):
    """A unit that hits all ground enemies on a line across its shot."""

    unit: int
    beams: float
    half_length: float
    edge: Tensor
    """[k or n, 1] how close to the line the centre of each unit of the other side is hit; negative
    for whom it cannot hit."""
    damage: Tensor
    """[k or n, 1] of one beam."""


class Burst(NamedTuple):
    """One side's units of a type that dies in hitting all ground enemies around it."""

    units: Tensor
    """[K] int64."""
    by_allies: bool
    edge_squared: Tensor
    """[k or n, 1] squared centre distance within which each unit of the other side is hit;
    negative for whom it cannot hit."""
    damage: Tensor
    """[k or n, 1]."""


class Healer(NamedTuple):
    """A unit that heals its own side."""

    unit: int
    patients: Tensor
    """[N, 1] bool: whom it can heal."""
    rate: float
    cost: float
    """Energy per health."""
    autocast: Tensor
    """[N, 1] centre distance within which it finds patients by itself."""
    autocast_energy: float
    """Below it it does not."""


def build_tables(
    scenario: Scenario,
    units: list[UnitType],
    device: torch.device,
    enemy_healers: EnemyHealers = "follow",
) -> Tables:
    """The tables of these units, allies first."""
    n, n_allies = len(units), len(scenario.ally_units)
    weapons = [unit.weapon or UNARMED for unit in units]

    def column(values: list[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

    def flags(values: list[bool]) -> Tensor:
        return torch.tensor(values, device=device)[:, None]

    def table(values: npt.NDArray[Any]) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)[:, :, None]

    radius = np.array([u.radius for u in units], dtype=np.float32)
    edges = radius[:, None] + radius[None, :]
    ranges = np.array(
        [u.heal.range if u.heal else w.range for u, w in zip(units, weapons, strict=True)],
        dtype=np.float32,
    )
    can_hit = np.array([[a.can_hit(b) for b in units] for a in units])
    collide = np.array([[a.collides_with(b) for b in units] for a in units]) & ~np.eye(
        n, dtype=bool
    )
    clearance = edges - CONTACT
    blow = [unit.weapon is not None and unit.weapon.delivery in SINGLE_BLOWS for unit in units]
    damage = [
        [hit_damage(a, b) if single else 0.0 for b in units]
        for a, single in zip(units, blow, strict=True)
    ]
    grounds = _pathable(scenario.terrain)
    kinds = [MOVERS.index(u.mover) for u in units]
    lines, bursts = _lines(units, n_allies, device), _bursts(units, n_allies, device)
    route = routes(scenario.terrain) if any(u.mover == "ground" for u in units) else None
    return Tables(
        n_allies=n_allies,
        n_units=n,
        health=column([u.health for u in units]),
        shield=column([u.shield for u in units]),
        armor=column([u.armor for u in units]),
        speed=column([u.speed for u in units]),
        acceleration=column([u.acceleration for u in units]),
        health_regen=column([u.health_regen for u in units]),
        energy=column([u.heal.max_energy if u.heal else 0.0 for u in units]),
        energy_at_start=column([u.heal.energy if u.heal else 0.0 for u in units]),
        energy_regen=column([u.heal.energy_regen if u.heal else 0.0 for u in units]),
        reach=torch.as_tensor((edges + ranges[:, None]).reshape(-1), device=device),
        weapon_range=column([w.range for w in weapons]),
        slop=column([w.range_slop for w in weapons]),
        can_hit=torch.as_tensor(can_hit.reshape(-1), device=device),
        armed=flags([u.weapon is not None for u in units]),
        arc_cosine=column([math.cos(math.radians(w.arc / 2)) if w.arc else 2.0 for w in weapons]),
        scan=table(_scan(scenario, edges, ranges, can_hit)),
        clearance=table(clearance * collide),
        notice=table((clearance + LOOKAHEAD) ** 2 * collide),
        same_side=table(_same_side(n, n_allies)),
        separation=column([u.separation_radius for u in units]),
        **_turns(device),
        damage=torch.tensor(damage, dtype=torch.float32, device=device).reshape(-1),
        period=column([w.period for w in weapons]),
        damage_point=column([w.damage_point for w in weapons]),
        backswing=column([w.backswing for w in weapons]),
        missile=flags([w.delivery == "missile" for w in weapons]),
        missile_speed=column([w.missile_speed for w in weapons]),
        melee_range=column([w.melee_range for w in weapons]),
        delay=column([w.delay for w in weapons]),
        strikes_at_once=flags([w.delivery in STRIKES_AT_ONCE for w in weapons]),
        sweeps=flags([w.delivery == "line" for w in weapons]),
        apart=table(np.sign(np.arange(n)[None] - np.arange(n)[:, None]) / GRAIN),
        grave=column([1000.0 + 100.0 * i for i in range(n)]),
        index=torch.arange(n, device=device)[:, None],
        number=column(list(range(n))),
        pathable=torch.as_tensor(grounds.reshape(-1), device=device),
        ground=torch.tensor(kinds, device=device)[:, None] * (MAP_SIZE + 2) ** 2,
        route=None if route is None else torch.as_tensor(route.reshape(-1), device=device),
        on_foot=flags([u.mover == "ground" for u in units]),
        lines=lines,
        bursts=bursts,
        healers=_healers(units, n_allies, device),
        enemy_healers=enemy_healers,
        accelerates=any(u.acceleration > 0 for u in units),
        enemies_miss=any(
            enemy.weapon is not None and not all(enemy.can_hit(ally) for ally in units[:n_allies])
            for enemy in units[n_allies:]
        ),
        has_shields=any(u.shield > 0 for u in units),
        regenerates=any(u.health_regen > 0 for u in units),
        pursues=scenario.pursues,
        burst_rounds=_longest_chain(bursts),
        can_burst=flags([w.delivery == "burst" for w in weapons]),
    )


def _pathable(terrain: Terrain) -> npt.NDArray[np.bool_]:
    """[3, 34, 34] where each of `MOVERS` may be."""
    whole = np.ones_like(terrain.pathable)
    # Who flies is stopped by the map's edge as others are.
    return np.stack([np.pad(g, 1) for g in (terrain.pathable, terrain.level > 0, whole)])


def _scan(
    scenario: Scenario,
    edges: npt.NDArray[np.float32],
    ranges: npt.NDArray[np.float32],
    can_hit: npt.NDArray[np.bool_],
) -> npt.NDArray[Any]:
    n = len(scenario.ally_units)
    scan = edges + np.maximum(ranges + SCAN_BEYOND, MIN_SCAN_RANGE)[:, None]
    if scenario.pursues:
        scan = np.full_like(scan, EVERYWHERE)
    return np.where(can_hit, scan, -1.0)[n:, :n]


def _same_side(n: int, n_allies: int) -> npt.NDArray[np.bool_]:
    ally = np.arange(n) < n_allies
    return np.equal.outer(ally, ally)


def _other_side(unit: int, n_allies: int) -> slice:
    return slice(n_allies, None) if unit < n_allies else slice(0, n_allies)


def _lines(units: list[UnitType], n_allies: int, device: torch.device) -> tuple[Line, ...]:
    found = []
    for i, unit in enumerate(units):
        weapon = unit.weapon
        if weapon is not None and weapon.delivery == "line":
            others = units[_other_side(i, n_allies)]
            edge = [weapon.line_width + u.radius if unit.can_hit(u) else -1.0 for u in others]
            damage = [hit_damage(unit, u) for u in others]
            tensors = (torch.tensor(v, device=device)[:, None] for v in (edge, damage))
            found.append(Line(i, float(weapon.beams), weapon.line_length / 2, *tensors))
    return tuple(found)


def _bursts(units: list[UnitType], n_allies: int, device: torch.device) -> tuple[Burst, ...]:
    found = []
    for side in (range(n_allies), range(n_allies, len(units))):
        others = units[_other_side(side[0], n_allies)]
        for unit in {units[i].name: units[i] for i in side}.values():
            weapon = unit.weapon
            if weapon is None or weapon.delivery != "burst":
                continue
            reach = [(weapon.burst_radius + u.radius) ** 2 for u in others]
            edge = [r if unit.can_hit(u) else -1.0 for r, u in zip(reach, others, strict=True)]
            found.append(
                Burst(
                    units=torch.tensor([i for i in side if units[i] is unit], device=device),
                    by_allies=side[0] == 0,
                    edge_squared=torch.tensor(edge, device=device)[:, None],
                    damage=torch.tensor([hit_damage(unit, u) for u in others], device=device)[
                        :, None
                    ],
                )
            )
    return tuple(found)


def _longest_chain(bursts: tuple[Burst, ...]) -> int:
    """Rounds until no burst can set off another: bursts harm the other side alone."""
    ours = sum(len(burst.units) for burst in bursts if burst.by_allies)
    theirs = sum(len(burst.units) for burst in bursts if not burst.by_allies)
    return min(2 * min(ours, theirs) + 1, ours + theirs)


def _healers(units: list[UnitType], n_allies: int, device: torch.device) -> tuple[Healer, ...]:
    found = []
    for i, unit in enumerate(units):
        heal = unit.heal
        if heal is not None:
            own = range(n_allies) if i < n_allies else range(n_allies, len(units))
            patients = [
                j in own and "biological" in other.attributes for j, other in enumerate(units)
            ]
            autocast = [heal.autocast_range + unit.radius + other.radius for other in units]
            found.append(
                Healer(
                    unit=i,
                    patients=torch.tensor(patients, device=device)[:, None],
                    rate=heal.rate,
                    cost=heal.energy_per_health,
                    autocast=torch.tensor(autocast, device=device)[:, None],
                    autocast_energy=heal.autocast_energy,
                )
            )
    return tuple(found)


def _turns(device: torch.device) -> dict[str, Tensor]:
    degrees = [0.0] + [float(d) for d in TURN_DEGREES for _ in "lr"]
    side = [0.0] + [s for _ in TURN_DEGREES for s in (1.0, -1.0)]
    pairs = [(1.0, 0.0)] + [(c, s * sign) for c, s in TURNS for sign in (1.0, -1.0)]
    sides = torch.tensor(side, device=device)
    return {
        "turn_cost": torch.tensor(degrees, device=device)[:, None, None],
        "turn_side": sides[:, None, None],
        "turn_sides": sides,
        "turn_cosine": torch.tensor([c for c, _ in pairs], device=device),
        "turn_sine": torch.tensor([s for _, s in pairs], device=device),
    }


def hit_damage(attacker: UnitType, target: UnitType) -> float:
    """Damage of one hit before armor."""
    weapon = attacker.weapon
    if weapon is None:
        return 0.0
    return weapon.damage + sum(weapon.bonus.get(attribute, 0.0) for attribute in target.attributes)


def spawn_positions(
    scenario: Scenario,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Positions [n, 2] of the allies by agent id and [k, 2] of the enemies by enemy index.

    SMAC numbers agents by unit type, then x, then y; enemies keep the order of their creation.
    """
    terrain = scenario.terrain
    allies, enemies = place(scenario.allies, terrain), place(scenario.enemies, terrain)
    kinds = np.array([scenario.ally_types.index(unit.name) for unit in scenario.ally_units])
    by_agent_id = np.lexsort((allies[:, 1], allies[:, 0], kinds))
    return allies[by_agent_id], enemies


class Pairs(NamedTuple):
    """How units lie to each other, [N, N, B]; the dead are far from everybody."""

    dx: Tensor
    """From the first unit to the second."""
    dy: Tensor
    squared: Tensor
    """Squared centre distance."""


def pairs(health: Tensor, x: Tensor, y: Tensor, tables: Tables) -> Pairs:
    """How units at these places lie to each other."""
    # Dead units are taken off the field, each to a place of its own, instead of being masked
    # out of every pair.
    x = torch.where(health > 0, x, tables.grave)
    dx = x[None] - x[:, None]
    dy = y[None] - y[:, None]
    return Pairs(dx, dy, dx * dx + dy * dy)


class Aim(NamedTuple):
    """Each unit's line to its target, all [N, B]; meaningless where the target is NOBODY."""

    dx: Tensor
    dy: Tensor
    distance: Tensor
    beyond: Tensor
    """How far the target is out of weapon range; 0 or less is within it."""


def aim(world: World, tables: Tables) -> Aim:
    """Where everybody's target is, seen from the one who has it."""
    dx = of_target(world.x, world.target) - world.x
    dy = of_target(world.y, world.target) - world.y
    distance = root(dx * dx + dy * dy)
    return Aim(dx, dy, distance, distance - tables.between(tables.reach, world.target))


def of_target(values: Tensor, target: Tensor) -> Tensor:
    """A unit tensor's entry for each unit's target, [N, B] (of unit 0 where NOBODY)."""
    return values.expand(-1, target.shape[1]).gather(0, target.clamp_min(0))


def root(squared: Tensor) -> Tensor:
    """Square roots of numbers from 2^-40 on; of smaller ones, close to 0.

    `torch.sqrt` rounds differently eager and compiled; this one is right in both.
    """
    return squared * torch.rsqrt(squared.clamp_min(2.0**-40))


def on_grain(length: Tensor) -> Tensor:
    """Lengths (below 1,024) rounded to the positions' grain, so that sums are exact in any order.

    Added to 3072, a float32 keeps twelve bits after the point: rounding in two operations.
    """
    return (length + 3072.0) - 3072.0
