"""Units as code written for SMAC knows them: objects with the game API's names and type ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from training.envs.skirmish.enemy_order import TYPE_IDS
from training.envs.skirmish.scenario import Scenario, UnitType
from training.envs.skirmish.world import World

MAP_TYPES = {
    ("marine",): "marines",
    ("stalker",): "stalkers",
    ("zealot",): "zealots",
    ("colossus",): "colossus",
    ("hydralisk",): "hydralisks",
    ("stalker", "zealot"): "stalkers_and_zealots",
    ("colossus", "stalker", "zealot"): "colossi_stalkers_zealots",
    ("marauder", "marine", "medivac"): "MMM",
    ("baneling", "zergling"): "bane",
}
"""SMAC's `map_type` by the agents' unit types in the order of their one-hot."""

FIRST_ALLY_ID = 2000
"""Agents' unit types are the map's own, numbered in the order of the one-hot. The game begins at
another id with every map and version; here it is always this one."""


class Position(NamedTuple):
    x: float
    y: float


@dataclass(frozen=True)
class Unit:
    """A unit as it is now. A dead one has health 0 and keeps its last position and shield."""

    tag: int
    unit_type: int
    owner: int
    """1 for agents, 2 for enemies."""
    pos: Position
    health: float
    health_max: float
    shield: float
    shield_max: float
    energy: float
    weapon_cooldown: float
    """Game loops."""
    radius: float


def type_ids(scenario: Scenario, ally: bool) -> dict[str, int]:
    """Type id by the unit type's name, for one side of the map."""
    if ally:
        return {name: FIRST_ALLY_ID + i for i, name in enumerate(scenario.ally_types)}
    return {name: TYPE_IDS[name] for name in scenario.enemy_types}


def units_now(
    world: World, units: list[UnitType], rows: range, ids: dict[str, int], owner: int
) -> dict[int, Unit]:
    """Side's number -> unit, of the first battle; `units` name the rows of `world`."""
    x, y, health, shield, energy, cooldown = (
        values[:, 0].tolist()
        for values in (world.x, world.y, world.health, world.shield, world.energy, world.cooldown)
    )
    return {
        number: Unit(
            tag=row,
            unit_type=ids[units[row].name],
            owner=owner,
            pos=Position(x[row], y[row]),
            health=health[row],
            health_max=units[row].health,
            shield=shield[row],
            shield_max=units[row].shield,
            energy=energy[row],
            weapon_cooldown=cooldown[row],
            radius=units[row].radius,
        )
        for number, row in enumerate(rows)
    }
