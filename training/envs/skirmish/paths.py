"""Ways round walls: the next corner to head for, from any cell of the ground to any other.

Shortest ways among obstacles bend at the obstacles' corners alone. So the ways here run from a
cell through cells that lie at a corner to the goal's cell, each leg a straight line with room for
a unit; what is kept of them is the first leg. The engine finds its ways on a mesh of triangles
that is not published; on the maps' wide grounds both come to the same.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from training.envs.skirmish.scenario import MAP_SIZE, Terrain

DIRECT = -1  # the goal itself can be headed for
CELLS = MAP_SIZE * MAP_SIZE
ROOM = 0.45  # a leg keeps walls this far to either side
STEP = 0.2  # of the points at which a leg is looked at


@cache
def routes(terrain: Terrain) -> npt.NDArray[np.int16] | None:
    """[1024, 1024] the cell to head for next, by the cell where one is and the goal's cell.

    Cells are numbered x * 32 + y. DIRECT where the goal is in a straight line, and from or to
    cells off the ground that no leg leads to. A goal off the ground is taken for the closest cell
    on it. None if there is no corner to go round.
    """
    ground = terrain.pathable
    corners = _corners(ground)
    if not len(corners):
        return None
    on_ground = np.flatnonzero(ground.reshape(-1))
    seen = _visible(ground, on_ground, on_ground)
    at_corner = np.searchsorted(on_ground, corners)
    legs = np.where(seen, _distances(on_ground, on_ground), np.inf)
    to_goal = _shortest(legs[np.ix_(at_corner, at_corner)], legs[at_corner])
    to_corner = np.where(legs[:, at_corner] > 0, legs[:, at_corner], np.inf)  # onward from itself
    through = to_corner[:, :, None] + to_goal[None]  # from, corner, goal
    best = through.argmin(1)
    reached = np.isfinite(np.take_along_axis(through, best[:, None], 1)[:, 0])
    first = np.where(seen | ~reached, DIRECT, corners[best])
    table = np.full((CELLS, CELLS), DIRECT, dtype=np.int16)
    closest = on_ground[_distances(np.arange(CELLS), on_ground).argmin(1)]
    table[on_ground] = first[:, np.searchsorted(on_ground, closest)]
    return table


def _centres(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    corners: npt.NDArray[np.float64] = np.stack(np.divmod(cells, MAP_SIZE), 1).astype(np.float64)
    return corners + 0.5


def _distances(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    offset = _centres(a)[:, None] - _centres(b)[None]
    distances: npt.NDArray[np.float64] = np.hypot(offset[..., 0], offset[..., 1])
    return distances


def _visible(
    ground: npt.NDArray[np.bool_], a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """[a, b] whether a straight leg between two cells' centres stays on the ground."""
    seen = np.empty((len(a), len(b)), dtype=bool)
    ends = _centres(b)
    for i, start in enumerate(_centres(a)):
        way = ends - start
        length = np.hypot(way[:, 0], way[:, 1])
        side = np.stack((-way[:, 1], way[:, 0]), 1) / np.maximum(length, 1e-9)[:, None] * ROOM
        n_points = int(length.max() / STEP) + 2
        along = np.linspace(0.0, 1.0, n_points)[:, None, None]
        clear = np.ones(len(b), dtype=bool)
        for offset in (-side, side):
            x, y = np.moveaxis((start + along * way + offset).astype(np.int64), -1, 0)
            clear &= ground[x.clip(0, MAP_SIZE - 1), y.clip(0, MAP_SIZE - 1)].all(0)
        seen[i] = clear
    return seen


def _corners(ground: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The cells on the ground that touch a wall's outward corner, diagonally."""
    padded = np.pad(ground, 1)
    corner = np.zeros_like(ground)
    for dx in (-1, 1):
        for dy in (-1, 1):
            diagonal = np.roll(padded, (-dx, -dy), (0, 1))
            beside = np.roll(padded, -dx, 0) & np.roll(padded, -dy, 1)
            corner |= (padded & ~diagonal & beside)[1:-1, 1:-1]
    return np.flatnonzero(corner.reshape(-1))


def _shortest(
    between: npt.NDArray[np.float64], to_goal: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """[corner, goal] the shortest way through any corners, from their legs and the last ones."""
    ways = between.copy()
    for middle in range(len(ways)):
        ways = np.minimum(ways, ways[:, middle, None] + ways[None, middle])
    np.fill_diagonal(ways, 0.0)
    best: npt.NDArray[np.float64] = (ways[:, :, None] + to_goal[None]).min(1)
    return best
