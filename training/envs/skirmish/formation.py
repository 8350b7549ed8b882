"""Where units stand when a map creates them.

A map creates its units one after another at a point, with the engine's placement search on. What
it does was read off replays of the real game (client 4.10), where the orders recorded hold every
unit's place: candidates lie on a square lattice around the point, as wide as the unit, and are
taken by their distance; of those equally far, first the ones nearest to due south going round
counter-clockwise, in quarter turns (south, east, north, west). In the innermost ring a unit that
can still come closer to the point slides to where it touches somebody. Both teams are placed
alike. This gives the recorded places of marines, zealots and zerglings exactly, and those of
mixed groups but for where a unit slides round two others, which in the game is left to chance.
See FIDELITY.md.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from training.envs.skirmish.scenario import MAP_SIZE, ScenarioError, Spawn, Terrain, UnitType

REACH = 10  # lattice steps from the point that are searched
CONTACT = 252 / 4096  # how deep touching units lie in each other, by their radii
FIRST_TIE = (0.0, -1.0)  # of places equally far from the point the first is south of it
SLIDE = 1 / 1024  # length of the steps in which a unit slides
COMPASS = [(math.cos(a), math.sin(a)) for a in np.arange(8) * math.pi / 4]

Placed = list[tuple[UnitType, npt.NDArray[np.float64]]]


def place(spawns: tuple[Spawn, ...], terrain: Terrain) -> npt.NDArray[np.float32]:
    """Positions [n, 2] of all units of one team, in the order of their creation.

    Raises:
        ScenarioError: there is no room for all of them.
    """
    placed: Placed = []
    for spawn in spawns:
        candidates = np.asarray(spawn.at) + _lattice() * 2 * spawn.unit.radius
        candidates = candidates[_has_ground(candidates, spawn, terrain)]
        for _ in range(spawn.count):
            free = candidates[_is_free(candidates, spawn.unit, placed)]
            if not len(free):
                raise ScenarioError(
                    f"no room for {spawn.unit.name} number {len(placed) + 1} of its side around "
                    "its point; create them at several points"
                )
            at = free[0]
            if np.abs(at - spawn.at).max() <= 2 * spawn.unit.radius:  # of the first ring
                at = _slide(at, np.asarray(spawn.at), spawn.unit, placed)
            placed.append((spawn.unit, at))
    return np.array([at for _, at in placed], dtype=np.float32)


def _lattice() -> npt.NDArray[np.float64]:
    """Whole steps in the order in which they are tried."""
    steps = np.arange(-REACH, REACH + 1.0)
    points = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    first = math.atan2(FIRST_TIE[1], FIRST_TIE[0])
    turn = (np.arctan2(points[:, 1], points[:, 0]) - first) % (2 * math.pi)
    quarter, within = np.divmod(np.round(turn, 9) % round(2 * math.pi, 9), round(math.pi / 2, 9))
    ordered: npt.NDArray[np.float64] = points[
        np.lexsort((quarter, within.round(6), (points**2).sum(axis=1)))
    ]
    return ordered


def _has_ground(
    candidates: npt.NDArray[np.float64], spawn: Spawn, terrain: Terrain
) -> npt.NDArray[np.bool_]:
    """Which places hold the unit's whole circle; one on foot stays on the point's level."""
    x, y = (int(value) for value in spawn.at)
    if spawn.unit.mover == "ground":
        ground = terrain.pathable & (terrain.level == terrain.level[x, y])
    else:
        ground = np.asarray(terrain.level >= (0 if spawn.unit.mover == "air" else 1))
    padded = np.pad(ground, 1)
    holds = np.ones(len(candidates), dtype=bool)
    for dx, dy in [(0.0, 0.0), *COMPASS]:
        edge = candidates + spawn.unit.separation_radius * np.array((dx, dy))
        cells = np.floor(edge).astype(np.int64).clip(-1, MAP_SIZE) + 1
        holds &= padded[cells[:, 0], cells[:, 1]]
    return holds


def _gaps(at: npt.NDArray[np.float64], unit: UnitType, placed: Placed) -> npt.NDArray[np.float64]:
    """[..., placed] how far places [..., 2] are from touching each unit that is in the way."""
    others = [(other, centre) for other, centre in placed if unit.collides_with(other)]
    if not others:
        return np.full((*at.shape[:-1], 1), np.inf)
    centres = np.array([centre for _, centre in others])
    radii = np.array([other.radius for other, _ in others]) + unit.radius
    offset = at[..., None, :] - centres
    gaps: npt.NDArray[np.float64] = np.hypot(offset[..., 0], offset[..., 1]) - radii + CONTACT
    return gaps


def _is_free(
    candidates: npt.NDArray[np.float64], unit: UnitType, placed: Placed
) -> npt.NDArray[np.bool_]:
    return np.asarray((_gaps(candidates, unit, placed) > -CONTACT).all(-1))


def _slide(
    at: npt.NDArray[np.float64], point: npt.NDArray[np.float64], unit: UnitType, placed: Placed
) -> npt.NDArray[np.float64]:
    """As far toward the point as it goes, round whom it touches; not from between two units."""
    if (_gaps(at, unit, placed) < CONTACT + 0.01).sum() > 1:
        return at
    at = _out_of(at, unit, placed)
    while (left := float(np.hypot(*(point - at)))) > SLIDE:
        to = _out_of(at + (point - at) / left * SLIDE, unit, placed)
        if np.hypot(*(point - to)) > left - SLIDE / 4:  # it hardly comes closer any more
            break
        at = to
    return at


def _out_of(at: npt.NDArray[np.float64], unit: UnitType, placed: Placed) -> npt.NDArray[np.float64]:
    """A place moved off the unit it lies deepest in, to where they touch."""
    gaps = _gaps(at, unit, placed)
    if gaps.min() >= 0:
        return at
    centres = [centre for other, centre in placed if unit.collides_with(other)]
    away = at - centres[int(gaps.argmin())]
    moved: npt.NDArray[np.float64] = at - away / np.hypot(*away) * gaps.min()
    return moved
