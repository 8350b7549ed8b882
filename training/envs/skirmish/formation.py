"""Where units stand when a map creates them.

A map creates its units one after another at a point, with the engine's placement search on: the
first takes the point itself and each later one the nearest place that is free (SMAC's authors,
smac issue 91). How the engine walks its candidates is not published; here they lie on a fine
square grid and ties go round clockwise from east. See FIDELITY.md.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from training.envs.skirmish.scenario import Spawn

GRID = 0.125  # spacing of the candidate places
REACH = 8.0  # how far from the point the search goes


def place(spawns: tuple[Spawn, ...]) -> npt.NDArray[np.float32]:
    """Positions [n, 2] of all units of one team, in the order of their creation."""
    centres: list[tuple[float, float]] = []
    radii: list[float] = []
    for spawn in spawns:
        candidates = _candidates(spawn.at)
        for _ in range(spawn.count):
            centre = _nearest_free(candidates, spawn.unit.separation_radius, centres, radii)
            centres.append(centre)
            radii.append(spawn.unit.separation_radius)
    return np.array(centres, dtype=np.float32)


def _candidates(at: tuple[float, float]) -> npt.NDArray[np.float64]:
    steps = np.arange(-REACH, REACH + GRID, GRID)
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    squared = (offsets**2).sum(axis=1)
    clockwise = np.mod(-np.arctan2(offsets[:, 1], offsets[:, 0]), 2 * math.pi)
    ordered: npt.NDArray[np.float64] = offsets[np.lexsort((clockwise, squared))]
    return np.asarray(at) + ordered


def _nearest_free(
    candidates: npt.NDArray[np.float64],
    radius: float,
    centres: list[tuple[float, float]],
    radii: list[float],
) -> tuple[float, float]:
    free = np.ones(len(candidates), dtype=bool)
    for centre, other in zip(centres, radii, strict=True):
        gap = np.hypot(*(candidates - np.asarray(centre)).T)
        free &= gap >= radius + other - 1e-9
    x, y = candidates[int(np.argmax(free))]
    return float(x), float(y)
