"""Units, weapons, terrain and maps: data files in, checked when read, as plain records.

The numbers are facts of the game (Wings of Liberty data) and of SMAC's maps; the files say where
they come from. A new map is one more file in `data/maps`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

DATA = Path(__file__).parent / "data"
LOOPS_PER_SECOND = 16  # game loops in one game second ("Normal" speed, in which all data is given)
MAP_SIZE = 32  # SMAC's maps are all 32 x 32

RACES = frozenset({"terran", "protoss", "zerg"})
ATTRIBUTES = frozenset({"light", "armored", "biological", "mechanical", "massive", "structure"})
Delivery = Literal["instant", "missile", "two_strikes"]


class ScenarioError(ValueError):
    """A data file breaks a rule, or an unknown map was asked for."""


@dataclass(frozen=True)
class Weapon:
    damage: float
    bonus: Mapping[str, float]
    """Extra damage by attribute of the target."""
    period: float
    """Game loops from one attack to the next."""
    range: float
    """Edge to edge."""
    range_slop: float
    """How far the target may drift beyond `range` once the swing has begun."""
    damage_point: int
    """Game loops from the start of the swing to the damage or the missile."""
    delivery: Delivery
    """instant: damage at the damage point; missile: when it arrives, also after its shooter's
    death; two_strikes: at the damage point and once more `strike_delay` loops later."""
    missile_speed: float
    """Distance per game loop; 0 without a missile."""
    strike_delay: int
    """Game loops to the second strike; 0 without one."""


@dataclass(frozen=True)
class UnitType:
    name: str
    race: str
    health: float
    shield: float
    armor: float
    attributes: frozenset[str]
    speed: float
    """Distance per game loop."""
    radius: float
    separation_radius: float
    smac_max_cooldown: float
    """SMAC's own divisor of `weapon_cooldown` in the state, in game loops."""
    weapon: Weapon


@dataclass(frozen=True)
class Spawn:
    unit: UnitType
    count: int
    at: tuple[float, float]


@dataclass(frozen=True)
class Scenario:
    name: str
    episode_limit: int
    pathable: npt.NDArray[np.bool_]
    """[x, y] over 32 x 32 cells; cell (x, y) covers [x, x + 1) x [y, y + 1)."""
    unit_type_bits: int
    ally_types: tuple[str, ...]
    """Ally unit types in the order of SMAC's one-hot, which is also that of the agent ids."""
    enemy_types: tuple[str, ...]
    """Enemy unit types in the order of their one-hot; SMAC swaps stalker and zealot."""
    allies: tuple[Spawn, ...]
    enemies: tuple[Spawn, ...]
    """In the order in which the map creates them."""
    attack_move: tuple[tuple[float, float], ...]
    """The enemies' one order: attack-move to a point drawn on the segment through these."""

    @property
    def ally_units(self) -> list[UnitType]:
        return [spawn.unit for spawn in self.allies for _ in range(spawn.count)]

    @property
    def enemy_units(self) -> list[UnitType]:
        return [spawn.unit for spawn in self.enemies for _ in range(spawn.count)]


def map_names() -> list[str]:
    """The maps in the data folder, by name."""
    return sorted(path.stem for path in (DATA / "maps").glob("*.json"))


def load_scenario(name: str) -> Scenario:
    """Read and check the map of this name.

    Raises:
        ScenarioError: no such map (the nearest names are given), or its file breaks a rule.
    """
    names = map_names()
    if name not in names:
        near = get_close_matches(name, names, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise ScenarioError(f"unknown map {name!r}; {hint}")
    return parse_scenario(json.loads((DATA / "maps" / f"{name}.json").read_text()), f"{name}.json")


def parse_scenario(raw: Mapping[str, Any], source: str) -> Scenario:
    """Check one map's data and turn it into a `Scenario`; `source` names it in errors."""
    fields = _Fields(raw, source)
    allies = tuple(_spawn(entry, f"{source}: allies") for entry in fields.take("allies", list))
    enemies = tuple(_spawn(entry, f"{source}: enemies") for entry in fields.take("enemies", list))
    terrain = fields.take("terrain", str)
    if terrain not in _terrains():
        raise ScenarioError(f"{source}: unknown terrain {terrain!r}; have {sorted(_terrains())}")
    order = _Fields(fields.take("enemy_order", dict), f"{source}: enemy_order")
    points = tuple(_point(p, f"{source}: enemy_order") for p in order.take("attack_move", list))
    order.end()
    scenario = Scenario(
        name=fields.take("name", str),
        episode_limit=fields.take("episode_limit", int),
        pathable=_terrains()[terrain],
        unit_type_bits=fields.take("unit_type_bits", int),
        ally_types=tuple(map(str, fields.take("ally_types", list))),
        enemy_types=tuple(map(str, fields.take("enemy_types", list))),
        allies=allies,
        enemies=enemies,
        attack_move=points,
    )
    fields.take("note", str, default="")
    fields.end()
    _check(scenario, source)
    return scenario


def _check(scenario: Scenario, source: str) -> None:
    def require(holds: bool, what: str) -> None:
        if not holds:
            raise ScenarioError(f"{source}: {what}")

    require(scenario.episode_limit > 0, "episode_limit must be positive")
    for x, y in scenario.attack_move:
        require(
            0 <= x <= MAP_SIZE and 0 <= y <= MAP_SIZE, f"enemy_order leads off the map: {x}, {y}"
        )
    require(1 <= len(scenario.attack_move) <= 2, "enemy_order.attack_move takes 1 or 2 points")
    for side, spawns, types in (
        ("allies", scenario.allies, scenario.ally_types),
        ("enemies", scenario.enemies, scenario.enemy_types),
    ):
        require(len(spawns) > 0, f"{side} must not be empty")
        require(
            {spawn.unit.name for spawn in spawns} == set(types),
            f"the unit types of {side} are {sorted({s.unit.name for s in spawns})}, "
            f"but their one-hot order lists {list(types)}",
        )
        require(len({s.unit.race for s in spawns}) == 1, f"{side} must be of one race")
        bits = scenario.unit_type_bits
        require(
            bits == 0 or bits == len(types), f"unit_type_bits is {bits}, {side} need {len(types)}"
        )
        require(bits > 0 or len(types) == 1, f"{side} of {len(types)} types need unit_type_bits")
        for spawn in spawns:
            x, y = spawn.at
            inside = 0 <= x < MAP_SIZE and 0 <= y < MAP_SIZE and scenario.pathable[int(x), int(y)]
            require(bool(inside), f"{side} spawn at ({x}, {y}), which is not pathable")


def _spawn(raw: Any, source: str) -> Spawn:
    fields = _Fields(raw, source)
    unit, count = fields.take("unit", str), fields.take("count", int)
    at = _point(fields.take("at", list), source)
    fields.end()
    if unit not in unit_types():
        raise ScenarioError(f"{source}: unknown unit {unit!r}; have {sorted(unit_types())}")
    if count < 1:
        raise ScenarioError(f"{source}: count of {unit} must be at least 1, not {count}")
    return Spawn(unit_types()[unit], count, at)


@cache
def unit_types() -> dict[str, UnitType]:
    """Every unit type of `data/units.json`, by name."""
    raw = json.loads((DATA / "units.json").read_text())
    return {name: _unit_type(name, entry) for name, entry in raw["units"].items()}


def _unit_type(name: str, raw: Any) -> UnitType:
    fields = _Fields(raw, f"units.json: {name}")
    unit = UnitType(
        name=name,
        race=fields.take("race", str),
        health=fields.number("health", above=0),
        shield=fields.number("shield"),
        armor=fields.number("armor"),
        attributes=frozenset(map(str, fields.take("attributes", list))),
        speed=fields.number("speed") / LOOPS_PER_SECOND,
        radius=fields.number("radius", above=0),
        separation_radius=fields.number("separation_radius", above=0),
        smac_max_cooldown=fields.number("smac_max_cooldown", above=0),
        weapon=_weapon(fields.take("weapon", dict), f"units.json: {name}: weapon"),
    )
    fields.end()
    if unit.race not in RACES:
        raise ScenarioError(f"units.json: {name}: unknown race {unit.race!r}; have {sorted(RACES)}")
    if not unit.attributes <= ATTRIBUTES:
        raise ScenarioError(
            f"units.json: {name}: unknown attributes {sorted(unit.attributes - ATTRIBUTES)}"
        )
    return unit


def _weapon(raw: Any, source: str) -> Weapon:
    fields = _Fields(raw, source)
    delivery = _Fields(fields.take("delivery", dict), f"{source}: delivery")
    kind = delivery.take("kind", str)
    if kind not in ("instant", "missile", "two_strikes"):
        raise ScenarioError(f"{source}: delivery kind must be instant, missile or two_strikes")
    speed = delivery.number("speed", above=0) if kind == "missile" else 0.0
    delay = delivery.number("delay", above=0) if kind == "two_strikes" else 0.0
    delivery.end()
    weapon = Weapon(
        damage=fields.number("damage", above=0),
        bonus=_bonus(fields.take("bonus", dict), source),
        period=fields.number("period", above=0) * LOOPS_PER_SECOND,
        range=fields.number("range"),
        range_slop=fields.number("range_slop"),
        damage_point=round(fields.number("damage_point") * LOOPS_PER_SECOND),
        delivery=cast(Delivery, kind),
        missile_speed=speed / LOOPS_PER_SECOND,
        strike_delay=round(delay * LOOPS_PER_SECOND),
    )
    fields.end()
    if weapon.strike_delay >= weapon.period:
        raise ScenarioError(f"{source}: the second strike must come before the next attack")
    return weapon


def _bonus(raw: dict[str, Any], source: str) -> dict[str, float]:
    bonus = _Fields(raw, f"{source}: bonus")
    known = {name: bonus.number(name) for name in sorted(ATTRIBUTES & set(raw))}
    bonus.end()
    return known


@cache
def _terrains() -> dict[str, npt.NDArray[np.bool_]]:
    raw = json.loads((DATA / "terrain.json").read_text())["terrains"]
    for name, rows in raw.items():
        if len(rows) != MAP_SIZE or any(len(r) != MAP_SIZE or set(r) - set(".#") for r in rows):
            raise ScenarioError(f"terrain.json: {name} must be 32 rows of 32 characters '.' or '#'")
    return {
        name: np.array([[cell == "." for cell in row] for row in rows]).T
        for name, rows in raw.items()
    }


def _point(raw: Any, source: str) -> tuple[float, float]:
    if not (isinstance(raw, list) and len(raw) == 2 and all(_is_number(v) for v in raw)):
        raise ScenarioError(f"{source}: a point is two numbers, not {raw!r}")
    return float(raw[0]), float(raw[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class _Fields:
    """Reads one JSON object's keys one by one; what is missing, wrong or left over is an error."""

    def __init__(self, raw: Any, source: str) -> None:
        if not isinstance(raw, dict):
            raise ScenarioError(f"{source}: expected an object, not {raw!r}")
        self._raw, self._source = dict(raw), source

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        if key not in self._raw and default is not None:
            return default
        if key not in self._raw:
            raise ScenarioError(f"{self._source}: {key} is missing")
        value = self._raw.pop(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ScenarioError(f"{self._source}: {key} must be a {kind.__name__}, not {value!r}")
        return value

    def number(self, key: str, above: float = -math.inf) -> float:
        value = self._raw.pop(key, None)
        if not _is_number(value):
            raise ScenarioError(f"{self._source}: {key} must be a number, not {value!r}")
        if value < 0 or value <= above:
            raise ScenarioError(f"{self._source}: {key} must be above {max(above, 0)}, not {value}")
        return float(value)

    def end(self) -> None:
        if self._raw:
            raise ScenarioError(f"{self._source}: unknown keys {sorted(self._raw)}")
