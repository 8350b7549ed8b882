"""What a battle looks like, in the picture as on the page: colours, and a shape for every type.

Sides differ by colour (blue and orange, apart for the colour-blind too), types by shape. A shape
is a polygon in a circle of radius 1 that looks along +x; y points to the left of it.
"""

from __future__ import annotations

import math

from training.envs.skirmish.frames import Header

Point = tuple[float, float]
Polygon = tuple[Point, ...]

COLORS = {
    "page": "#0b0f17",
    "panel": "#121826",
    "void": "#0b0f17",
    "cliff": "#151b29",
    "ground": "#212b3e",  # of level 1
    "high": "#33425c",  # of level 2; between them a ramp
    "edge": "#46587a",
    "ink": "#eef2f8",
    "muted": "#93a0b8",
    "faint": "#2c374b",
    "ally": "#4da3ff",
    "enemy": "#ff8a4c",
    "health": "#4fd08a",
    "hurt": "#f2c84b",
    "dying": "#ff5c6c",
    "shield": "#c3a6ff",
    "heal": "#7df0b0",
    "chosen": "#ffffff",
}


def _ring(n: int, *radii: float, turn: float = 0.0) -> Polygon:
    """n corners round the circle, their distances from its centre taken in turn from `radii`."""
    angles = [turn + 2 * math.pi * i / n for i in range(n)]
    return tuple(
        (round(r * math.cos(a), 4), round(r * math.sin(a), 4))
        for i, a in enumerate(angles)
        for r in (radii[i % len(radii)],)
    )


_ROUND = _ring(24, 1.0)

SHAPES: dict[str, Polygon] = {
    "marine": ((1.4, -0.16), *_ring(24, 0.92, turn=0.3)[:22], (1.4, 0.16))[::-1],
    "marauder": (
        (1.3, -0.75), (1.3, -0.35), (0.85, -0.35), (0.85, 0.35), (1.3, 0.35), (1.3, 0.75),
        (-0.6, 0.85), (-0.85, 0.5), (-0.85, -0.5), (-0.6, -0.85),
    ),
    "medivac": (
        (1.1, -0.36), (1.1, 0.36), (0.36, 0.36), (0.36, 1.0), (-0.36, 1.0), (-0.36, 0.36),
        (-1.1, 0.36), (-1.1, -0.36), (-0.36, -0.36), (-0.36, -1.0), (0.36, -1.0), (0.36, -0.36),
    ),
    "stalker": ((1.25, 0.0), (0.0, 0.85), (-1.05, 0.0), (0.0, -0.85)),
    "zealot": ((1.2, 0.0), (-0.8, 1.0), (-0.8, -1.0)),
    "colossus": _ring(6, 1.1),
    "zergling": ((1.35, 0.0), (-1.0, 1.0), (-0.45, 0.0), (-1.0, -1.0)),
    "baneling": _ring(16, 1.2, 0.75),
    "hydralisk": (
        (1.4, 0.0), (0.45, 0.75), (-0.5, 0.85), (-1.0, 0.35),
        (-1.0, -0.35), (-0.5, -0.85), (0.45, -0.75),
    ),
    "spine_crawler": _ring(8, 1.35, 0.5),
}  # fmt: skip


def shape_of(unit_type: str) -> Polygon:
    """A disc for a type that is not known here."""
    return SHAPES.get(unit_type, _ROUND)


def action_words(header: Header, agent: int) -> list[str]:
    """What each action means to this agent: a healer's targets are other agents."""
    names = [name.replace("_", " ") for name in header.actions]
    if header.units[agent].heals:
        return [name.replace("attack", "heal") for name in names]
    return names


def type_words(unit_type: str) -> str:
    return unit_type.replace("_", " ")


def q_range(frames_q: list[tuple[str, list[float]]]) -> tuple[float, float]:
    """The lowest and the highest Q value of available actions; one scale for a whole battle.

    Args:
        frames_q: at each step, which actions were available and the Q values of all.
    """
    values = [q for av, row in frames_q for ok, q in zip(av, row, strict=True) if ok == "1"]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
