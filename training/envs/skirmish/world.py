"""The battle's state as tensors, the tables that never change, and the geometry between units.

Layout: units first, battles last. N units (allies 0..n-1, then enemies), B battles; unit tensors
are [N, B], pair tensors [N, N, B] with the unit that looks first and the one looked at second.
With B innermost every reduction runs over whole rows of battles, which is fast and, because all
sums here are of numbers that float32 adds exactly, gives the same bits whatever B is:
damage and shields are multiples of 1/8, and pushes are rounded to the engine's 1/4096 before
they are summed.

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

from training.envs.skirmish.formation import place
from training.envs.skirmish.scenario import MAP_SIZE, Scenario, UnitType

STOP, MOVE, ATTACK, ATTACK_MOVE = 0, 1, 2, 3  # orders
NOBODY = -1

MIN_SCAN_RANGE = 5.0  # a weapon looks this far for targets even where it does not reach
LOOKAHEAD = 1.0  # how far before contact a unit begins to walk round somebody who stands
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
    order: Tensor
    """[N, B] int64, one of STOP, MOVE, ATTACK, ATTACK_MOVE."""
    target: Tensor
    """[N, B] int64, the unit attacked or chased, or NOBODY."""
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
    """What never changes: the units' numbers as [N, 1] tensors, pair tables, and the ground."""

    n_allies: int
    n_units: int
    health: Tensor
    shield: Tensor
    armor: Tensor
    speed: Tensor
    reach: Tensor
    """[N * N] centre distance at which a target is in weapon range, by attacker and target."""
    weapon_range: Tensor
    """[N, 1] edge to edge."""
    slop: Tensor
    """[N, 1] how much further it may drift during the swing."""
    scan: Tensor
    """[k, n, 1] centre distance within which an enemy looks for targets, by enemy and ally."""
    clearance_squared: Tensor
    """[N, N, 1] squared sum of the separation radii; 0 on the diagonal."""
    notice: Tensor
    """[N, N, 1] squared centre distance within which somebody standing is walked round; 0 on the
    diagonal."""
    separation: Tensor
    """[N, 1]."""
    turn_cost: Tensor
    """[1 + 2 * len(TURNS), 1, 1] degrees of each turn; straight on, then left and right in turn."""
    turn_side: Tensor
    """The same shape: 1 left, -1 right, 0 straight on."""
    turn_sides: Tensor
    """[1 + 2 * len(TURNS)], as the two below."""
    turn_cosine: Tensor
    turn_sine: Tensor
    damage: Tensor
    """[N * N] damage of one hit by attacker and target, bonus included."""
    period: Tensor
    damage_point: Tensor
    missile_speed: Tensor
    """[N, 1] distance per loop; 0 for weapons without a missile."""
    strike_delay: Tensor
    """[N, 1] loops to a second strike; 0 for weapons without one."""
    missile: Tensor
    """[N, 1] bool."""
    apart: Tensor
    """[N, N, 1] tiny, antisymmetric: which way two units on one spot are pushed."""
    grave: Tensor
    """[N, 1] x of a dead unit for all that looks at pairs."""
    index: Tensor
    """[N, 1] int64, 0..N-1."""
    number: Tensor
    """The same as float32, which is faster to compare in pairs."""
    pathable: Tensor
    """[34 * 34] bool, the cells with a border of unpathable ones."""

    def between(self, table: Tensor, target: Tensor) -> Tensor:
        """The entry of an [N * N] table for each unit and its target, [N, B]."""
        return table[self.index * self.n_units + target.clamp_min(0)]


def build_tables(scenario: Scenario, units: list[UnitType], device: torch.device) -> Tables:
    """The tables of these units, allies first."""
    n_allies = len(scenario.ally_units)

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

    radius = np.array([u.radius for u in units], dtype=np.float32)
    separation = np.array([u.separation_radius for u in units], dtype=np.float32)
    weapon_range = np.array([u.weapon.range for u in units], dtype=np.float32)
    edges = radius[:, None] + radius[None, :]
    clearance = separation[:, None] + separation[None, :]
    scan = np.maximum(weapon_range, MIN_SCAN_RANGE)
    damage = [[hit_damage(a, b) for b in units] for a in units]
    border = np.zeros((MAP_SIZE + 2, MAP_SIZE + 2), dtype=bool)
    border[1:-1, 1:-1] = scenario.terrain.pathable

    def table(values: npt.NDArray[Any]) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)[:, :, None]

    n = len(units)
    others = 1.0 - np.eye(n)
    return Tables(
        n_allies=n_allies,
        n_units=n,
        health=column([u.health for u in units]),
        shield=column([u.shield for u in units]),
        armor=column([u.armor for u in units]),
        speed=column([u.speed for u in units]),
        reach=torch.as_tensor((edges + weapon_range[:, None]).reshape(-1), device=device),
        weapon_range=column([u.weapon.range for u in units]),
        slop=column([u.weapon.range_slop for u in units]),
        scan=table((edges + scan[:, None])[n_allies:, :n_allies]),
        clearance_squared=table(clearance**2 * others),
        notice=table((clearance + LOOKAHEAD) ** 2 * others),
        **_turns(device),
        separation=column([u.separation_radius for u in units]),
        damage=torch.tensor(damage, dtype=torch.float32, device=device).reshape(-1),
        period=column([u.weapon.period for u in units]),
        damage_point=column([float(u.weapon.damage_point) for u in units]),
        missile_speed=column([u.weapon.missile_speed for u in units]),
        strike_delay=column([float(u.weapon.delay) for u in units]),
        missile=torch.tensor([[u.weapon.delivery == "missile"] for u in units], device=device),
        apart=table(np.sign(np.arange(n)[None] - np.arange(n)[:, None]) / GRAIN),
        grave=column([1000.0 + 100.0 * i for i in range(n)]),
        index=torch.arange(n, device=device)[:, None],
        number=column([float(i) for i in range(n)]),
        pathable=torch.as_tensor(border.reshape(-1), device=device),
    )


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
    return weapon.damage + sum(weapon.bonus.get(attribute, 0.0) for attribute in target.attributes)


def spawn_positions(
    scenario: Scenario,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Positions [n, 2] of the allies by agent id and [k, 2] of the enemies by enemy index.

    SMAC numbers agents by unit type, then x, then y; enemies keep the order of their creation.
    """
    allies, enemies = place(scenario.allies), place(scenario.enemies)
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
    distance = torch.sqrt(dx * dx + dy * dy)
    return Aim(dx, dy, distance, distance - tables.between(tables.reach, world.target))


def of_target(values: Tensor, target: Tensor) -> Tensor:
    """A unit tensor's entry for each unit's target, [N, B] (of unit 0 where NOBODY)."""
    return values.expand_as(target).gather(0, target.clamp_min(0))


def on_grain(length: Tensor) -> Tensor:
    """Lengths (below 1,024) rounded to the positions' grain, so that sums are exact in any order.

    Added to 3072, a float32 keeps twelve bits after the point: rounding in two operations.
    """
    return (length + 3072.0) - 3072.0
