"""SMAC's masks, observations and state once more, one unit at a time and in float64.

Written from SMAC's interface alone, to be slow and plain; it shares nothing with the simulator
but the units' positions, health, shields and cooldowns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.training.envs.battlefield import see
from training.envs.skirmish.env import SkirmishEnv

#           health, shield, SMAC's divisor of the cooldown
STATS = {"marine": (45, 0, 15), "stalker": (80, 80, 35), "zealot": (100, 50, 22)}
OCTAGON_ROWS = {5: (10, 21), 6: (9, 22), 7: (8, 23), 8: (7, 24), 9: (6, 25)}
OCTAGON_ROWS |= dict.fromkeys(range(10, 22), (5, 26))
OCTAGON_ROWS |= {22: (6, 25), 23: (7, 24), 24: (8, 23), 25: (9, 22), 26: (10, 21)}
MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))  # north, south, east, west


def band(x: int, y: int) -> bool:
    return 7 <= y <= 24


def octagon(x: int, y: int) -> bool:
    first, last = OCTAGON_ROWS.get(y, (1, 0))
    return first <= x <= last


GROUND = {"2s3z": band, "5m_vs_6m": band, "2m_vs_1z": octagon}
# One-hot places of (allies, enemies); SMAC's enemy stalker and zealot are swapped.
TYPES = {"2s3z": (("stalker", "zealot"), ("zealot", "stalker"))}


@dataclass
class Unit:
    kind: str
    x: float
    y: float
    health: float
    shield: float
    cooldown: float

    @property
    def fractions(self) -> list[float]:
        """Health, and shield where the kind has one."""
        health, shield, _ = STATS[self.kind]
        return [self.health / health] + ([self.shield / shield] if shield else [])


@dataclass
class Shown:
    """What one battle shows."""

    avail: npt.NDArray[np.bool_]
    obs: npt.NDArray[np.float32]
    state: npt.NDArray[np.float32]


def show(env: SkirmishEnv, last_actions: npt.NDArray[np.int64]) -> Iterator[Shown]:
    """What each battle of `env` shows; `last_actions` [E, A], -1 right after a reset."""
    kinds = [u.name for u in env.scenario.ally_units + env.scenario.enemy_units]
    n = env.info.n_agents
    columns = [see(env, what) for what in ("x", "y", "health", "shield", "cooldown")]
    for slot in range(env.n_envs):
        units = [Unit(k, *(c[slot, i] for c in columns)) for i, k in enumerate(kinds)]
        yield _battle(env.info.map_name, units[:n], units[n:], last_actions[slot])


def _battle(name: str, ours: list[Unit], theirs: list[Unit], last: npt.NDArray[np.int64]) -> Shown:
    ally_types, enemy_types = TYPES.get(name, ((), ()))
    avail = [_available(name, unit, theirs) for unit in ours]
    obs = []
    for i, me in enumerate(ours):
        row = [float(a) for a in avail[i][2:6]]
        for e, enemy in enumerate(theirs):
            row += _block(me, enemy, avail[i][6 + e], enemy_types)
        for j, ally in enumerate(ours):
            if j != i:
                row += _block(me, ally, True, ally_types)
        row += me.fractions + [float(me.kind == t) for t in ally_types]
        obs.append(row if me.health > 0 else [0.0] * len(row))
    state: list[float] = []
    for unit in ours:
        health, *shield = unit.fractions
        row = [health, unit.cooldown / STATS[unit.kind][2], (unit.x - 16) / 32, (unit.y - 16) / 32]
        row += shield + [float(unit.kind == t) for t in ally_types]
        state += row if unit.health > 0 else [0.0] * len(row)
    for unit in theirs:
        health, *shield = unit.fractions
        row = [health, (unit.x - 16) / 32, (unit.y - 16) / 32]
        row += shield + [float(unit.kind == t) for t in enemy_types]
        state += row if unit.health > 0 else [0.0] * len(row)
    for action in last:
        state += [float(action == a) for a in range(6 + len(theirs))]
    return Shown(np.array(avail), np.array(obs, np.float32), np.array(state, np.float32))


def _block(me: Unit, other: Unit, first: bool, types: tuple[str, ...]) -> list[float]:
    distance = math.hypot(other.x - me.x, other.y - me.y)
    row = [float(first), distance / 9, (other.x - me.x) / 9, (other.y - me.y) / 9]
    row += other.fractions + [float(other.kind == t) for t in types]
    return row if distance < 9 and other.health > 0 else [0.0] * len(row)


def _available(name: str, me: Unit, enemies: list[Unit]) -> list[bool]:
    if me.health <= 0:
        return [True] + [False] * (5 + len(enemies))
    row = [False, True]
    for dx, dy in MOVES:
        x, y = int(me.x + dx), int(me.y + dy)
        row.append(0 <= x < 32 and 0 <= y < 32 and GROUND[name](x, y))
    near = [math.hypot(e.x - me.x, e.y - me.y) <= 6 for e in enemies]
    return row + [e.health > 0 and close for e, close in zip(enemies, near, strict=True)]
