"""Where units stand when a map creates them.

A map creates its units one after another at a point, with the engine's placement search on: the
first takes the point itself and each later one the nearest place that is free (SMAC's authors,
smac issue 91). How the engine walks its candidates is not published; here they lie on a fine
square grid and ties go round clockwise from east. Units on foot stay on the level of the point.
See FIDELITY.md.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from training.envs.skirmish.scenario import MAP_SIZE, ScenarioError, Spawn, Terrain, UnitType

GRID = 0.125  # spacing of the candidate places
REACH = 8.0  # how far from the point the search goes
COMPASS = [(math.cos(a), math.sin(a)) for a in np.arange(8) * math.pi / 4]


def place(spawns: tuple[Spawn, ...], terrain: Terrain) -> npt.NDArray[np.float32]:
    """Positions [n, 2] of all units of one team, in the order of their creation.

    Raises:
        ScenarioError: there is no room for all of them.
    """
    placed: list[tuple[UnitType, tuple[float, float]]] = []
    for spawn in spawns:
        candidates = _candidates(spawn.at)
        candidates = candidates[_has_ground(candidates, spawn, terrain)]
        for _ in range(spawn.count):
            placed.append((spawn.unit, _nearest_free(candidates, spawn.unit, placed)))
    return np.array([at for _, at in placed], dtype=np.float32)


def _candidates(at: tuple[float, float]) -> npt.NDArray[np.float64]:
    steps = np.arange(-REACH, REACH + GRID, GRID)
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    squared = (offsets**2).sum(axis=1)
    clockwise = np.mod(-np.arctan2(offsets[:, 1], offsets[:, 0]), 2 * math.pi)
    ordered: npt.NDArray[np.float64] = offsets[np.lexsort((clockwise, squared))]
    return np.asarray(at) + ordered


def _has_ground(
    candidates: npt.NDArray[np.float64], spawn: Spawn, terrain: Terrain
) -> npt.NDArray[np.bool_]:
    """Which places hold the unit's whole circle; one on foot stays on the point's level."""
    x, y = (int(value) for value in spawn.at)
    if spawn.unit.mover == "ground":
        ground = terrain.pathable & (terrain.level == terrain.level[x, y])
    else:
        ground = np.ones_like(terrain.pathable) if spawn.unit.mover == "air" else terrain.level > 0
    ground = np.pad(ground, 1)
    holds = np.ones(len(candidates), dtype=bool)
    for dx, dy in [(0.0, 0.0), *COMPASS]:
        edge = candidates + spawn.unit.separation_radius * np.array((dx, dy))
        cells = np.floor(edge).astype(np.int64).clip(-1, MAP_SIZE) + 1
        holds &= ground[cells[:, 0], cells[:, 1]]
    return holds


def _nearest_free(
    candidates: npt.NDArray[np.float64],
    unit: UnitType,
    placed: list[tuple[UnitType, tuple[float, float]]],
) -> tuple[float, float]:
    free = np.ones(len(candidates), dtype=bool)
    for other, centre in placed:
        if unit.collides_with(other):
            gap = np.hypot(*(candidates - np.asarray(centre)).T)
            free &= gap >= unit.separation_radius + other.separation_radius - 1e-9
    if not free.any():
        raise ScenarioError(
            f"no room for {unit.name} number {len(placed) + 1} of its side within {REACH:g} of its "
            "point; create them at several points"
        )
    x, y = candidates[int(np.argmax(free))]
    return float(x), float(y)
