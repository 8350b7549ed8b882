"""Units, weapons, terrain and maps: data files in, checked when read, as plain records.

The numbers are facts of the game (Wings of Liberty data) and of SMAC's maps; the files say where
they come from. A new map is one more file, in `data/maps` or anywhere (docs/maps.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from training.envs.skirmish.options import UnitData

DATA = Path(__file__).parent / "data"
LOOPS_PER_SECOND = 16  # game loops in one game second ("Normal" speed, in which all data is given)
MAP_SIZE = 32  # SMAC's maps are all 32 x 32

RACES = frozenset({"terran", "protoss", "zerg"})
ATTRIBUTES = frozenset({"light", "armored", "biological", "mechanical", "massive", "structure"})
PLANES = frozenset({"ground", "air"})
BODIES = frozenset({"ground", "flying", "colossus", "structure"})
MOVERS = ("ground", "cliffs", "air")
DELIVERIES = ("instant", "missile", "two_strikes", "delayed", "line", "burst")
FIXED_POINT = 4096  # the engine's numbers are multiples of 1/4096
Delivery = Literal["instant", "missile", "two_strikes", "delayed", "line", "burst"]
Mover = Literal["ground", "cliffs", "air"]


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
    arc: float
    """Degrees within which the target must lie to be fired at; 0 for what faces its target."""
    backswing: int
    """Game loops after the damage point in which an attacker does not walk after a target."""
    targets: frozenset[str]
    """Planes it can hit: ground, air."""
    delivery: Delivery
    """instant: damage at the damage point. missile: when it arrives, also after its shooter's
    death. two_strikes: at the damage point and once more `delay` loops later. delayed: `delay`
    loops after the damage point. line: `delay` loops after it, on all ground enemies on a line
    across the shot. burst: the attacker dies, and all ground enemies around it are hit."""
    missile_speed: float
    """Distance per game loop; 0 without a missile."""
    melee_range: float
    """Edge to edge; a missile's shooter strikes at once within it. -1 for those that do not."""
    delay: int
    """Game loops; 0 for deliveries without one."""
    beams: int
    """How often a line hits each unit on it."""
    line_length: float
    line_width: float
    """A unit is on the line if its edge is this close."""
    burst_radius: float
    """A unit is hit if its edge is this close to the centre."""


@dataclass(frozen=True)
class Heal:
    """A healer's ability; it restores the health of biological units of its own side."""

    rate: float
    """Health per game loop."""
    range: float
    """Edge to edge."""
    energy_per_health: float
    autocast_range: float
    """Within it an idle healer finds somebody to heal by itself."""
    autocast_energy: float
    """Below it it does not."""
    energy: float
    """At the start."""
    max_energy: float
    energy_regen: float
    """Per game loop."""


@dataclass(frozen=True)
class UnitType:
    name: str
    race: str
    health: float
    shield: float
    armor: float
    attributes: frozenset[str]
    planes: frozenset[str]
    """Where weapons find it; a colossus is both on the ground and in the air."""
    collide: frozenset[str]
    """Units that share a word here cannot stand in each other."""
    mover: Mover
    """ground keeps to pathable cells, cliffs to all but the void, air to the map."""
    health_regen: float
    """Per game loop."""
    speed: float
    """Distance per game loop."""
    acceleration: float
    """Distance per game loop squared; 0 for who is at full speed at once."""
    radius: float
    separation_radius: float
    smac_max_cooldown: float
    """SMAC's own divisor of `weapon_cooldown` in the state, in game loops."""
    weapon: Weapon | None
    heal: Heal | None

    def can_hit(self, other: UnitType) -> bool:
        return self.weapon is not None and bool(self.weapon.targets & other.planes)

    def collides_with(self, other: UnitType) -> bool:
        return bool(self.collide & other.collide)


@dataclass(frozen=True, eq=False)
class Terrain:
    """The ground by 1 x 1 cell, [x, y]; cell (x, y) covers [x, x + 1) x [y, y + 1)."""

    pathable: npt.NDArray[np.bool_]
    """Where ground units can stand, as in the game's pathing grid."""
    level: npt.NDArray[np.float32]
    """Cliff level: 0 is the void, 1 and 2 are levels, fractions between them a ramp."""


@dataclass(frozen=True)
class Spawn:
    unit: UnitType
    count: int
    at: tuple[float, float]


@dataclass(frozen=True)
class Scenario:
    name: str
    episode_limit: int
    terrain: Terrain
    unit_type_bits: int
    ally_types: tuple[str, ...]
    """Ally unit types in the order of SMAC's one-hot, which is also that of the agent ids."""
    enemy_types: tuple[str, ...]
    """Enemy unit types in the order of their one-hot; SMAC swaps stalker and zealot."""
    allies: tuple[Spawn, ...]
    enemies: tuple[Spawn, ...]
    """In the order in which the map creates them."""
    attack_move: tuple[tuple[float, float], ...]
    """The enemies' one order: attack-move to a point drawn on the segment through these. Empty
    where they have another order, or none."""
    pursues: bool
    """The enemies' order is to attack the allies themselves, wherever they are."""

    def with_units(self, units: Mapping[str, UnitType]) -> Scenario:
        """The same map with these unit types, by name."""

        def renewed(spawns: tuple[Spawn, ...]) -> tuple[Spawn, ...]:
            return tuple(replace(spawn, unit=units[spawn.unit.name]) for spawn in spawns)

        return replace(self, allies=renewed(self.allies), enemies=renewed(self.enemies))

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
    """Read and check the map of this name, or the one in the file at this path ("my/map.json").

    Raises:
        ScenarioError: no such map (the nearest names are given) or file, or it breaks a rule.
    """
    path = Path(name)
    if path.suffix == ".json":
        if not path.is_file():
            raise ScenarioError(f"{name}: no map file is there")
    else:
        names = map_names()
        if name not in names:
            near = get_close_matches(name, names, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names)}"
            raise ScenarioError(f"unknown map {name!r}; {hint}")
        path = DATA / "maps" / f"{name}.json"
    scenario = parse_scenario(_read(path), path.name)
    if scenario.name != path.stem:
        raise ScenarioError(f"{path.name}: name is {scenario.name!r}, which must be the file's")
    return scenario


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ScenarioError(f"{path.name}: {error}") from None


def parse_scenario(raw: Mapping[str, Any], source: str) -> Scenario:
    """Check one map's data and turn it into a `Scenario`; `source` names it in errors."""
    fields = _Fields(raw, source)
    allies = tuple(_spawn(entry, f"{source}: allies") for entry in fields.take("allies", list))
    enemies = tuple(_spawn(entry, f"{source}: enemies") for entry in fields.take("enemies", list))
    order = _Fields(fields.take("enemy_order", dict), f"{source}: enemy_order")
    to = order.take("attack_move", list, default=[])
    points = tuple(_point(point, f"{source}: enemy_order") for point in to)
    pursues = order.take("pursue", str, default="nobody")
    order.end()
    if pursues not in ("allies", "nobody") or (points and pursues == "allies"):
        raise ScenarioError(f"{source}: enemy_order is attack_move, or pursue: allies, or empty")
    scenario = Scenario(
        name=fields.take("name", str, default=Path(source).stem),
        episode_limit=fields.take("episode_limit", int),
        terrain=_ground_of(fields, source),
        unit_type_bits=fields.take("unit_type_bits", int),
        ally_types=tuple(map(str, fields.take("ally_types", list))),
        enemy_types=tuple(map(str, fields.take("enemy_types", list))),
        allies=allies,
        enemies=enemies,
        attack_move=points,
        pursues=pursues == "allies",
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
    require(len(scenario.attack_move) <= 2, "enemy_order.attack_move takes 1 or 2 points")
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
            inside = 0 <= x < MAP_SIZE and 0 <= y < MAP_SIZE
            inside = inside and bool(scenario.terrain.pathable[int(x), int(y)])
            require(inside, f"{side} spawn at ({x}, {y}), which is not pathable")


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
def unit_types(data: UnitData = "liberty") -> dict[str, UnitType]:
    """Every unit type, by name: those of `data/units.json`, with what other data changes."""
    units = _read(DATA / "units.json")["units"]
    if data != "liberty":
        changes = _read(DATA / f"units_{data}.json")["units"]
        units = {name: _changed(entry, changes.get(name, {})) for name, entry in units.items()}
    return {name: _unit_type(name, entry) for name, entry in units.items()}


def _changed(entry: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    nested = {
        key: _changed(entry[key], value) if isinstance(value, dict) and key != "bonus" else value
        for key, value in changes.items()
    }
    return {**entry, **nested}


def _unit_type(name: str, raw: Any) -> UnitType:
    source = f"units.json: {name}"
    fields = _Fields(raw, source)
    weapon, heal = (fields.take(key, dict, default={}) for key in ("weapon", "heal"))
    unit = UnitType(
        name=name,
        race=fields.word("race", RACES),
        health=fields.number("health", above=0),
        shield=fields.number("shield"),
        armor=fields.number("armor"),
        attributes=fields.words("attributes", ATTRIBUTES),
        planes=fields.words("planes", PLANES, default=["ground"]),
        collide=fields.words("collide", BODIES, default=["ground"]),
        mover=cast(Mover, fields.word("mover", MOVERS, default="ground")),
        health_regen=_per_loop(fields.number("health_regen", default=0)),
        speed=_per_loop(fields.number("speed")),
        acceleration=fields.number("acceleration", default=0) / LOOPS_PER_SECOND**2,
        radius=fields.number("radius", above=0),
        separation_radius=fields.number("separation_radius", above=0),
        smac_max_cooldown=fields.number("smac_max_cooldown", above=0),
        weapon=_weapon(weapon, f"{source}: weapon") if weapon else None,
        heal=_heal(heal, f"{source}: heal") if heal else None,
    )
    fields.end()
    return unit


def _per_loop(per_second: float) -> float:
    """A rate per game loop as the engine has it: what is added up stays a multiple of 1/4096."""
    return round(per_second / LOOPS_PER_SECOND * FIXED_POINT) / FIXED_POINT


def _heal(raw: Any, source: str) -> Heal:
    fields = _Fields(raw, source)
    heal = Heal(
        rate=_per_loop(fields.number("rate", above=0)),
        range=fields.number("range"),
        energy_per_health=fields.number("energy_per_health"),
        autocast_range=fields.number("autocast_range"),
        autocast_energy=fields.number("autocast_energy"),
        energy=fields.number("energy"),
        max_energy=fields.number("max_energy", above=0),
        energy_regen=_per_loop(fields.number("energy_regen")),
    )
    fields.end()
    return heal


def _weapon(raw: Any, source: str) -> Weapon:
    fields = _Fields(raw, source)
    delivery = _Fields(fields.take("delivery", dict), f"{source}: delivery")
    kind = delivery.word("kind", DELIVERIES)
    missile, line = kind == "missile", kind == "line"
    has_delay = kind in ("two_strikes", "delayed", "line")
    weapon = Weapon(
        damage=fields.number("damage", above=0),
        bonus=_bonus(fields.take("bonus", dict), source),
        period=fields.number("period", above=-1 if kind == "burst" else 0) * LOOPS_PER_SECOND,
        range=fields.number("range"),
        range_slop=fields.number("range_slop"),
        damage_point=round(fields.number("damage_point") * LOOPS_PER_SECOND),
        arc=fields.number("arc", default=0),
        backswing=round(fields.number("backswing", default=0.5) * LOOPS_PER_SECOND),
        targets=fields.words("targets", PLANES),
        delivery=cast(Delivery, kind),
        missile_speed=delivery.number("speed", above=0) / LOOPS_PER_SECOND if missile else 0.0,
        melee_range=delivery.number("melee_range", default=-1) if missile else -1.0,
        delay=round(delivery.number("delay", above=0) * LOOPS_PER_SECOND) if has_delay else 0,
        beams=int(delivery.number("beams", above=0)) if line else 1,
        line_length=delivery.number("length", above=0) if line else 0.0,
        line_width=delivery.number("width", above=0) if line else 0.0,
        burst_radius=delivery.number("radius", above=0) if kind == "burst" else 0.0,
    )
    delivery.end()
    fields.end()
    if weapon.delay >= weapon.period and has_delay:
        raise ScenarioError(f"{source}: the second strike must come before the next attack")
    return weapon


def _bonus(raw: dict[str, Any], source: str) -> dict[str, float]:
    bonus = _Fields(raw, f"{source}: bonus")
    known = {name: bonus.number(name) for name in sorted(ATTRIBUTES & set(raw))}
    bonus.end()
    return known


# The characters of terrain.json: cliff level, and whether ground units can stand there.
GROUND = {
    "#": (0.0, False),
    "o": (1.0, False),
    "@": (2.0, False),
    ".": (1.0, True),
    "^": (2.0, True),
    "1": (1.125, True),
    "2": (1.375, True),
    "3": (1.625, True),
}


@cache
def _terrains() -> dict[str, Terrain]:
    raw = _read(DATA / "terrain.json")["terrains"]
    return {name: _terrain(rows, f"terrain.json: {name}") for name, rows in raw.items()}


def _ground_of(fields: _Fields, source: str) -> Terrain:
    """A map's terrain: one of terrain.json by its name, or drawn in the map's own file."""
    terrain = fields.take("terrain", object)
    if isinstance(terrain, str):
        if terrain not in _terrains():
            raise ScenarioError(
                f"{source}: unknown terrain {terrain!r}; have {sorted(_terrains())}"
            )
        return _terrains()[terrain]
    drawn = _Fields(terrain, f"{source}: terrain")
    rows = drawn.take("rows", list)
    drawn.end()
    return _terrain(rows, f"{source}: terrain")


def _terrain(rows: list[Any], source: str) -> Terrain:
    """From 32 rows of 32 characters of `GROUND`; the first row is y = 0."""
    fits = [isinstance(r, str) and len(r) == MAP_SIZE and not set(r) - set(GROUND) for r in rows]
    if len(rows) != MAP_SIZE or not all(fits):
        known = "".join(GROUND)
        raise ScenarioError(f"{source} must be 32 rows of 32 characters of {known}")
    cells = [[GROUND[cell] for cell in row] for row in rows]
    level = np.array([[level for level, _ in row] for row in cells], dtype=np.float32).T
    return Terrain(np.array([[pathable for _, pathable in row] for row in cells]).T, level)


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

    def word(self, key: str, known: Collection[str], default: str | None = None) -> str:
        value: str = self.take(key, str, default)
        if value not in known:
            raise ScenarioError(
                f"{self._source}: unknown {key} {value!r}; have {', '.join(sorted(known))}"
            )
        return value

    def words(
        self, key: str, known: frozenset[str], default: list[str] | None = None
    ) -> frozenset[str]:
        values = frozenset(map(str, self.take(key, list, default)))
        if not values <= known:
            raise ScenarioError(f"{self._source}: unknown {key} {sorted(values - known)}")
        return values

    def number(self, key: str, above: float = -math.inf, default: float | None = None) -> float:
        value = self._raw.pop(key, None)
        if value is None and default is not None:
            return default
        if not _is_number(value):
            raise ScenarioError(f"{self._source}: {key} must be a number, not {value!r}")
        if value < 0 or value <= above:
            raise ScenarioError(f"{self._source}: {key} must be above {max(above, 0)}, not {value}")
        return float(value)

    def end(self) -> None:
        if self._raw:
            raise ScenarioError(f"{self._source}: unknown keys {sorted(self._raw)}")
