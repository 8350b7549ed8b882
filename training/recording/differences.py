"""Two recordings of a map beside each other, number by number."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from training.envs.smac.recorder import GRIDS, OURS, THEIRS, Unit, as_units
from training.recording.twins import kinds, twins

SIDES = {OURS: "ally", THEIRS: "enemy"}
OF_A_TYPE = ("is_flying", "radius", "health_max", "shield_max", "energy_max")
OF_A_UNIT = ("x", "y", "facing", "health", "shield", "energy", "weapon_cooldown")
Recorded = Mapping[str, Any]


class Row(NamedTuple):
    """One quantity."""

    part: str
    quantity: str
    game: Any
    skirmish: Any
    difference: float | None
    """Skirmish's less the game's; None for what is no number, or missing."""

    @property
    def equal(self) -> bool:
        return bool(self.game == self.skirmish)


def row(part: str, quantity: str, game: Any, skirmish: Any) -> Row:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (game, skirmish))
    return Row(part, quantity, game, skirmish, skirmish - game if numbers else None)


def compare(game: Recorded, skirmish: Recorded) -> list[Row]:
    """All quantities of a map's recordings, equal or not."""
    return [
        *_grids(game["game_info"], skirmish["game_info"]),
        *_types(game, skirmish),
        *_beginnings(game["resets"], skirmish["resets"]),
        *_battle(game, skirmish),
    ]


# ---------------------------------------------------------------------------- grids


def _grids(game: Recorded, skirmish: Recorded) -> Iterator[Row]:
    for name in ("map_size", "playable_area"):
        yield row("map", name, game[name], skirmish[name])
    for name in GRIDS:
        bits = "bits_per_pixel"
        yield row(name, bits, game[name][bits], skirmish[name][bits])
        one, other = cells(game[name]), cells(skirmish[name])
        yield row(name, "size", list(one.shape), list(other.shape))
        if one.shape == other.shape:
            for y, x in np.ndindex(*one.shape):
                yield row(name, f"cell ({x}, {y})", int(one[y, x]), int(other[y, x]))


def cells(image: Recorded) -> npt.NDArray[np.uint8]:
    """[y, x] from an image's bytes, rows as they come: of one bit, most significant first."""
    width, height = image["size"]
    values = np.frombuffer(base64.b64decode(image["data"]), np.uint8)
    if image["bits_per_pixel"] == 1:
        values = np.unpackbits(values)
    return values[: width * height].reshape(height, width)


# ----------------------------------------------------------------------- unit types


def _types(game: Recorded, skirmish: Recorded) -> Iterator[Row]:
    one, other = _kinds_told(game), _kinds_told(skirmish)
    for owner, rank in sorted(one.keys() | other.keys()):
        part = f"{SIDES[owner]} type {rank}"
        a, b = one.get((owner, rank), {}), other.get((owner, rank), {})
        for name in dict.fromkeys((*a, *b)):
            yield row(part, name, a.get(name), b.get(name))


def _kinds_told(recorded: Recorded) -> dict[tuple[int, int], dict[str, Any]]:
    """What is known of each side's types, by owner and rank, flat."""
    units = [unit for reset in recorded["resets"] for unit in as_units(reset["units"])]
    data = {kind["unit_id"]: kind for kind in recorded["unit_types"]}
    found = {}
    for (owner, number), rank in kinds(units).items():
        told = dict(data.get(number, {}))
        told.pop("unit_id", None)
        weapons = told.pop("weapons", [])
        for i, weapon in enumerate(weapons):
            told.update({f"weapon {i} {name}": value for name, value in weapon.items()})
        first = next(u for u in units if (u["owner"], u["unit_type"]) == (owner, number))
        of_units = {name: first[name] for name in OF_A_TYPE}
        # Enemies are of the game's own types; the agents' numbers differ from map to map.
        number_told = {"unit_type": number} if owner == THEIRS else {}
        found[owner, rank] = {**number_told, **told, "weapons": len(weapons), **of_units}
    return found


# ----------------------------------------------------------------------- beginnings


def _beginnings(game: Sequence[Recorded], skirmish: Sequence[Recorded]) -> Iterator[Row]:
    seen: tuple[set[int], set[int]] = set(), set()
    for number, (one, other) in enumerate(zip(game, skirmish, strict=True)):
        part = f"beginning {number}"
        theirs, ours = as_units(one["units"]), as_units(other["units"])
        yield row(part, "game_loop", one["game_loop"], other["game_loop"])
        again = [
            sum(unit["tag"] in old for unit in units)
            for units, old in zip((theirs, ours), seen, strict=True)
        ]
        yield row(part, "tags seen before", *again)
        for units, old in zip((theirs, ours), seen, strict=True):
            old.update(unit["tag"] for unit in units)
        yield from _field(part, theirs, ours)


def _field(part: str, theirs: Sequence[Unit], ours: Sequence[Unit]) -> Iterator[Row]:
    pairs = twins(theirs, ours)
    names = names_of(ours)
    for owner, side in SIDES.items():
        named = {a["tag"]: names[b["tag"]] for a, b in pairs}
        lists = [
            [named.get(u["tag"], "nobody's twin") for u in theirs if u["owner"] == owner],
            [names[u["tag"]] for u in ours if u["owner"] == owner],
        ]
        numbers = [[name.removeprefix(f"{side} ") for name in names] for names in lists]
        yield row(part, f"order of {side} units", *(" ".join(n) for n in numbers))
    for a, b in pairs:
        for field in OF_A_UNIT:
            yield _unit_row(part, f"{names[b['tag']]} {field}", a[field], b[field])


def _unit_row(part: str, quantity: str, game: float, skirmish: float) -> Row:
    plain = row(part, quantity, game, skirmish)
    if quantity.endswith("facing") and plain.difference is not None:
        turn = (plain.difference + math.pi) % math.tau - math.pi if plain.difference else 0.0
        return plain._replace(difference=turn)
    return plain


def names_of(units: Sequence[Unit]) -> dict[int, str]:
    """Tag -> "ally 0", "enemy 3": the place in Skirmish's own list, in which allies stand by agent
    id and enemies in the order of their creation."""
    names = {}
    for owner, side in SIDES.items():
        own = (unit["tag"] for unit in units if unit["owner"] == owner)
        names.update({tag: f"{side} {i}" for i, tag in enumerate(own)})
    return names


# --------------------------------------------------------------------------- battle


def _battle(game: Recorded, skirmish: Recorded) -> Iterator[Row]:
    """The same orders in both, and how far apart that has taken them."""
    theirs, ours = (as_units(recorded["resets"][-1]["units"]) for recorded in (game, skirmish))
    pairs = [(a["tag"], b["tag"]) for a, b in twins(theirs, ours)]
    nothing: dict[str, Any] = {"game_loop": None, "units": [], "results": []}
    steps = zip_longest(game["episode"], skirmish["episode"], fillvalue=nothing)
    yield row("battle", "steps", len(game["episode"]), len(skirmish["episode"]))
    for number, (one, other) in enumerate(steps):
        part = f"battle step {number}"
        a = {unit["tag"]: unit for unit in as_units(one["units"])}
        b = {unit["tag"]: unit for unit in as_units(other["units"])}
        yield row(part, "game_loop", one["game_loop"], other["game_loop"])
        for code in sorted({*one["results"], *other["results"]}):
            counts = (done["results"].count(code) for done in (one, other))
            yield row(part, f"orders with result {code}", *counts)
        for owner, side in SIDES.items():
            yield row(part, f"{side} units alive", *(_sum(u, owner, None) for u in (a, b)))
            for field in ("health", "shield", "weapon_cooldown"):
                yield row(part, f"{side} {field} in all", *(_sum(u, owner, field) for u in (a, b)))
        yield from _apart(part, [(a[i], b[j]) for i, j in pairs if i in a and j in b])


def _sum(units: Mapping[int, Unit], owner: int, field: str | None) -> float:
    return sum(u[field] if field else 1 for u in units.values() if u["owner"] == owner)


def _apart(part: str, pairs: Sequence[tuple[Unit, Unit]]) -> Iterator[Row]:
    """How far those who live in both are from where they are in the game."""
    if pairs:
        distances = [math.hypot(a["x"] - b["x"], a["y"] - b["y"]) for a, b in pairs]
        yield row(part, "distance on average", 0.0, sum(distances) / len(distances))
        yield row(part, "distance at most", 0.0, max(distances))
