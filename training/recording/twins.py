"""Which unit of one game is which of another: tags and the order of lists are each game's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from training.envs.smac.recorder import Unit


def kinds(units: Sequence[Unit]) -> dict[tuple[int, int], int]:
    """(owner, unit type) -> its rank among the owner's types. The agents' types have numbers of
    their own in every game, but SMAC counts on their order."""
    found = sorted({(unit["owner"], unit["unit_type"]) for unit in units})
    return {key: sum(other[0] == key[0] for other in found[:i]) for i, key in enumerate(found)}


def twins(one: Sequence[Unit], other: Sequence[Unit]) -> list[tuple[Unit, Unit]]:
    """Pairs of the same owner and type, nearest first; in the order of the second game's list.

    Units for whom nobody is left are in no pair.
    """
    one_kinds, other_kinds = kinds(one), kinds(other)
    near = sorted(
        (math.hypot(a["x"] - b["x"], a["y"] - b["y"]), i, j)
        for i, a in enumerate(one)
        for j, b in enumerate(other)
        if a["owner"] == b["owner"] and _rank(a, one_kinds) == _rank(b, other_kinds)
    )
    of: dict[int, int] = {}
    for _, i, j in near:
        if j not in of and i not in of.values():
            of[j] = i
    return [(one[of[j]], other[j]) for j in sorted(of)]


def _rank(unit: Unit, ranks: Mapping[tuple[int, int], int]) -> int:
    return ranks[unit["owner"], unit["unit_type"]]
