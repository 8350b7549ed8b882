"""SMAC's masks, observations, states, rewards and endings once more, one unit at a time in float64.

Written from SMAC's interface and maps alone, to be slow and plain; it shares nothing with the
simulator but the units' positions, health, shields, energy and cooldowns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tests.training.envs.battlefield import see
from training.envs.skirmish.env import SkirmishEnv

STATS = {  # health, shield, SMAC's divisor of the cooldown (of a medivac's energy)
    "marine": (45, 0, 15),
    "marauder": (125, 0, 25),
    "medivac": (150, 0, 200),
    "stalker": (80, 80, 35),
    "zealot": (100, 50, 22),
    "colossus": (200, 150, 24),
    "hydralisk": (80, 0, 10),
    "zergling": (35, 0, 11),
    "baneling": (30, 0, 1),
    "spine_crawler": (300, 0, 15),
}
MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))  # north, south, east, west
AROUND = ((0, 4), (0, -4), (4, 0), (-4, 0), (2, 2), (-2, -2), (2, -2), (-2, 2))

# Where ground units can stand, as "y: x-ranges".
BAND = "7-24: 0-31"
PLAIN = "0-31: 0-31"
OCTAGON = (
    "5: 10-21; 6: 9-22; 7: 8-23; 8: 7-24; 9: 6-25; 10-21: 5-26; 22: 6-25; 23: 7-24; 24: 8-23; "
    "25: 9-22; 26: 10-21"
)
CORRIDOR = (
    "1: 2-13; 2: 1-13; 3-10: 1-12; 11: 1-13; 12: 2-14; 13: 11-25; 14: 12-26; 15: 12-27; "
    "16: 12-28; 17: 12-29; 18-21: 11-30; 22: 12-30; 23: 13-30; 24: 14-30; 25: 15-30; 26: 16-30; "
    "27: 17-30; 28: 18-30; 29: 19-30; 30: 20-29"
)
STAIR = (
    "1: 2-7; 2: 1-8; 3: 1-11; 4-6: 1-12; 7: 1-15; 8: 2-16; 9-10: 3-16; 11: 3-19; 12: 4-20; "
    "13-15: 7-20; 16: 8-20; 17: 9-25; 18: 10-26; 19-20: 13-26; 21: 13-29; 22: 14-30; 23: 15-30; "
    "24: 16-30; 25-27: 19-30; 28: 20-30; 29: 21-30; 30: 22-29"
)
PLATEAU = (
    "5: 4-27; 6: 3-28; 7: 2-29; 8-11: 0-31; 12: 0-3,28-31; 13-17: 0-31; 18: 2-29; 19: 3-28; "
    "20: 4-27"
)
PENTAGON = "7: 8-19; 8-19: 7-20; 20: 8-19; 21: 9-18; 22: 10-17; 23: 11-16; 24: 12-15"
ARENA = "7: 10-19; 8: 9-20; 9: 8-21; 10-17: 7-22; 18: 8-21; 19: 9-20; 20: 10-19"

# Unit types by the places of their one-hots; SMAC swaps the enemy's stalkers and zealots.
SZ = (("stalker", "zealot"), ("zealot", "stalker"))
CSZ = (("colossus", "stalker", "zealot"),) * 2
MMM = (("marauder", "marine", "medivac"),) * 2
BANE = (("baneling", "zergling"),) * 2
ONE = ((), ())
Types = tuple[tuple[str, ...], tuple[str, ...]]

# agents by id, enemies in the order of their creation, ground, types, episode limit
MAPS: dict[str, tuple[str, str, str, Types, int]] = {
    "3m": ("3 marine", "3 marine", BAND, ONE, 60),
    "5m": ("5 marine", "5 marine", BAND, ONE, 70),
    "8m": ("8 marine", "8 marine", BAND, ONE, 120),
    "25m": ("25 marine", "25 marine", BAND, ONE, 150),
    "5m_vs_6m": ("5 marine", "6 marine", BAND, ONE, 70),
    "8m_vs_9m": ("8 marine", "9 marine", BAND, ONE, 120),
    "10m_vs_11m": ("10 marine", "11 marine", BAND, ONE, 150),
    "27m_vs_30m": ("27 marine", "30 marine", BAND, ONE, 180),
    "MMM": ("2 marauder 7 marine 1 medivac", "7 marine 2 marauder 1 medivac", BAND, MMM, 150),
    "MMM2": ("2 marauder 7 marine 1 medivac", "8 marine 3 marauder 1 medivac", BAND, MMM, 180),
    "2s3z": ("2 stalker 3 zealot", "2 stalker 3 zealot", BAND, SZ, 120),
    "3s5z": ("3 stalker 5 zealot", "3 stalker 5 zealot", BAND, SZ, 150),
    "3s5z_vs_3s6z": ("3 stalker 5 zealot", "3 stalker 6 zealot", BAND, SZ, 170),
    "3s_vs_3z": ("3 stalker", "3 zealot", PLAIN, ONE, 150),
    "3s_vs_4z": ("3 stalker", "4 zealot", PLAIN, ONE, 200),
    "3s_vs_5z": ("3 stalker", "5 zealot", PLAIN, ONE, 250),
    "1c3s5z": (*("1 colossus 3 stalker 5 zealot",) * 2, BAND, CSZ, 180),
    "2m_vs_1z": ("2 marine", "1 zealot", OCTAGON, ONE, 150),
    "corridor": ("6 zealot", "24 zergling", CORRIDOR, ONE, 400),
    "6h_vs_8z": ("6 hydralisk", "8 zealot", ARENA, ONE, 150),
    "2s_vs_1sc": ("2 stalker", "1 spine_crawler", PENTAGON, ONE, 300),
    "so_many_baneling": ("7 zealot", "32 baneling", STAIR, ONE, 100),
    "bane_vs_bane": ("4 baneling 20 zergling", "20 zergling 4 baneling", OCTAGON, BANE, 200),
    "2c_vs_64zg": ("2 colossus", "64 zergling", PLATEAU, ONE, 400),
}


def team(counts: str) -> list[str]:
    """The unit types that "2 stalker 3 zealot" counts, one for each unit."""
    words = counts.split()
    return [kind for n, kind in zip(words[::2], words[1::2], strict=True) for _ in range(int(n))]


@cache
def ground(rows: str) -> frozenset[tuple[int, int]]:
    """The cells (x, y) of "y: x-ranges"."""

    def span(words: str) -> range:
        first, *last = words.split("-")
        return range(int(first), int((last or [first])[0]) + 1)

    cells = set()
    for row in rows.split(";"):
        ys, xs = row.split(":")
        cells |= {(x, y) for y in span(ys) for words in xs.split(",") for x in span(words)}
    return frozenset(cells)


@dataclass
class Unit:
    kind: str
    x: float
    y: float
    health: float
    shield: float
    cooldown: float
    energy: float

    @property
    def alive(self) -> bool:
        return self.health > 0

    @property
    def heals(self) -> bool:
        return self.kind == "medivac"

    @property
    def fractions(self) -> list[float]:
        """Health, and shield where the kind has one."""
        health, shield, _ = STATS[self.kind]
        return [self.health / health] + ([self.shield / shield] if shield else [])


@dataclass
class Battle:
    """One battle's units at one time: ours by agent id, theirs in the order of creation."""

    name: str
    ours: list[Unit]
    theirs: list[Unit]


@dataclass
class Shown:
    """What one battle shows."""

    avail: npt.NDArray[np.bool_]
    obs: npt.NDArray[np.float32]
    state: npt.NDArray[np.float32]


def take(env: SkirmishEnv, slots: Iterable[int] | None = None) -> list[Battle]:
    """The battles of these slots (all by default) as they are now."""
    name = env.info.map_name
    ours, theirs = (team(counts) for counts in MAPS[name][:2])
    n, kinds = len(ours), ours + theirs
    columns = [see(env, f) for f in ("x", "y", "health", "shield", "cooldown", "energy")]
    battles = []
    for slot in range(env.n_envs) if slots is None else slots:
        units = [Unit(k, *(float(c[slot, i]) for c in columns)) for i, k in enumerate(kinds)]
        battles.append(Battle(name, units[:n], units[n:]))
    return battles


def show(
    env: SkirmishEnv,
    last_actions: npt.NDArray[np.int64],
    slots: Iterable[int] | None = None,
    pathing: bool = False,
) -> Iterator[Shown]:
    """What each battle of these slots (all by default) shows.

    Args:
        last_actions: [E, A], -1 right after a reset.
        pathing: with obs_pathing_grid.
    """
    slots = list(range(env.n_envs) if slots is None else slots)
    for slot, battle in zip(slots, take(env, slots), strict=True):
        yield show_battle(battle, last_actions[slot], pathing)


def show_battle(
    battle: Battle, last_actions: npt.NDArray[np.int64], pathing: bool = False
) -> Shown:
    """What a battle shows; `last_actions` [A]."""
    avail = [_available(battle, unit) for unit in battle.ours]
    obs = [_obs(battle, i, avail[i], pathing) for i in range(len(battle.ours))]
    state = _state(battle)
    for action in last_actions:
        state += [float(action == a) for a in range(6 + len(battle.theirs))]
    return Shown(np.array(avail), np.array(obs, np.float32), np.array(state, np.float32))


def _obs(battle: Battle, i: int, avail: list[bool], pathing: bool) -> list[float]:
    me, (ally_types, enemy_types) = battle.ours[i], MAPS[battle.name][3]
    row = [float(a) for a in avail[2:6]]
    if pathing:
        for dx, dy in AROUND:
            row.append(float(_is_ground(battle, int(me.x) + dx, int(me.y) + dy, beyond=True)))
    for e, enemy in enumerate(battle.theirs):
        row += _block(me, enemy, avail[6 + e], enemy_types)
    for j, ally in enumerate(battle.ours):
        if j != i:
            row += _block(me, ally, True, ally_types)
    row += me.fractions + [float(me.kind == t) for t in ally_types]
    return row if me.alive else [0.0] * len(row)


def _block(me: Unit, other: Unit, first: bool, types: tuple[str, ...]) -> list[float]:
    distance = math.hypot(other.x - me.x, other.y - me.y)
    row = [float(first), distance / 9, (other.x - me.x) / 9, (other.y - me.y) / 9]
    row += other.fractions + [float(other.kind == t) for t in types]
    return row if distance < 9 and other.alive else [0.0] * len(row)


def _state(battle: Battle) -> list[float]:
    ally_types, enemy_types = MAPS[battle.name][3]
    state: list[float] = []
    for unit in battle.ours:
        health, *shield = unit.fractions
        # A cooldown below 0 is what was left of a loop, and none to see.
        busy = (unit.energy if unit.heals else max(unit.cooldown, 0)) / STATS[unit.kind][2]
        row = [health, busy, (unit.x - 16) / 32, (unit.y - 16) / 32]
        row += shield + [float(unit.kind == t) for t in ally_types]
        state += row if unit.alive else [0.0] * len(row)
    for unit in battle.theirs:
        health, *shield = unit.fractions
        row = [health, (unit.x - 16) / 32, (unit.y - 16) / 32]
        row += shield + [float(unit.kind == t) for t in enemy_types]
        state += row if unit.alive else [0.0] * len(row)
    return state


def _available(battle: Battle, me: Unit) -> list[bool]:
    if not me.alive:
        return [True] + [False] * (5 + len(battle.theirs))
    row = [False, True]
    row += [_is_ground(battle, int(me.x + dx), int(me.y + dy), beyond=False) for dx, dy in MOVES]
    targets = [False] * len(battle.theirs)
    for j, other in enumerate(battle.ours if me.heals else battle.theirs):
        if other.alive and math.hypot(other.x - me.x, other.y - me.y) <= 6:
            targets[j] = not (me.heals and other.heals)
    return row + targets


def _is_ground(battle: Battle, x: int, y: int, beyond: bool) -> bool:
    """Whether a cell is pathable; a cell off the map counts as `beyond`."""
    if not (0 <= x < 32 and 0 <= y < 32):
        return beyond
    return (x, y) in ground(MAPS[battle.name][2])


def ending(battle: Battle) -> int | None:
    """SMAC's code: 1 won, -1 lost, 0 nobody is left, None while it goes on."""
    ours = [unit for unit in battle.ours if unit.alive]
    theirs = [unit for unit in battle.theirs if unit.alive]
    healers = MAPS[battle.name][3] == MMM
    if (not ours and theirs) or (healers and all(unit.heals for unit in ours)):
        return -1
    if (ours and not theirs) or (healers and [unit.heals for unit in theirs] == [True]):
        return 1
    return None if ours or theirs else 0


def reward(before: Battle, now: Battle, signed: bool = False, sparse: bool = False) -> float:
    """The reward of the step between; `signed` is without reward_only_positive."""
    code = ending(now)
    most = 200 + sum(10 + sum(STATS[unit.kind][:2]) for unit in now.theirs)
    if sparse:
        return float(code or 0) / (most / 20)
    hurt, deaths = _losses(before.theirs, now.theirs)
    points = hurt + 10 * deaths
    if signed:
        hurt, deaths = _losses(before.ours, now.ours)
        points -= 0.5 * hurt + 10 * 0.5 * deaths
    else:
        points = abs(points)
    return (points + (200 if code == 1 else 0)) / (most / 20)


def _losses(before: list[Unit], now: list[Unit]) -> tuple[float, int]:
    """Health and shields that a side lost in a step, less what it regained, and its new dead."""
    lost, deaths = 0.0, 0
    for was, unit in zip(before, now, strict=True):
        if not was.alive:
            continue
        if unit.alive:
            lost += was.health + was.shield - unit.health - unit.shield
        else:
            lost += was.health + was.shield
            deaths += 1
    return lost, deaths
