"""Ways round walls, on ground drawn by hand and on SMAC's maps; and what walls do to a fight."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.training.envs.battlefield import (
    NEVER,
    STOP,
    Placed,
    alter,
    command,
    put,
    scenario,
    see,
    units,
)
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.paths import DIRECT, routes
from training.envs.skirmish.scenario import Terrain, load_scenario

Cell = tuple[int, int]
WALLED = ["corridor", "so_many_baneling", "2c_vs_64zg"]


def number(cell: Cell) -> int:
    return cell[0] * 32 + cell[1]


def ground(*walls: tuple[range, range]) -> Terrain:
    """Even ground with these walls, each given by its columns and its rows."""
    pathable = np.ones((32, 32), dtype=bool)
    for columns, rows in walls:
        pathable[np.ix_(columns, rows)] = False
    return Terrain(pathable, pathable.astype(np.float32))


def way(table: npt.NDArray[np.int16], start: Cell, goal: Cell) -> list[Cell]:
    """The cells where a way bends, and its goal."""
    cells = [start]
    while (corner := int(table[number(cells[-1]), number(goal)])) != DIRECT:
        cells.append(divmod(corner, 32))
        assert len(cells) < 40, "a way in circles"
    return [*cells[1:], goal]


# Two columns of wall with a gap of two rows.
GAP = ground((range(16, 18), range(15)), (range(16, 18), range(17, 32)))


def test_a_way_bends_at_the_corners_of_the_gap() -> None:
    table = routes(GAP)
    assert table is not None
    assert way(table, (5, 5), (10, 20)) == [(10, 20)]
    assert way(table, (5, 5), (27, 5)) == [(15, 15), (18, 15), (27, 5)]
    assert way(table, (27, 28), (5, 28)) == [(18, 16), (15, 16), (5, 28)]
    assert way(table, (5, 15), (27, 15)) == [(27, 15)]  # straight through
    assert way(table, (15, 15), (27, 16)) == [(27, 16)]


def test_a_goal_in_a_wall_is_taken_for_the_closest_ground() -> None:
    table = routes(GAP)
    assert table is not None
    # (17, 5) is next to (18, 5): from the left, the way there leads through the gap.
    assert way(table, (5, 5), (17, 5))[:2] == [(15, 15), (18, 15)]
    assert way(table, (27, 5), (17, 5)) == [(17, 5)]


def test_where_no_way_leads_the_straight_one_is_taken() -> None:
    table = routes(ground((range(16, 18), range(32)), (range(3, 4), range(3, 4))))
    assert table is not None
    assert way(table, (5, 5), (27, 5)) == [(27, 5)]
    assert way(table, (2, 2), (6, 6))[-1] == (6, 6)  # round the single cell of wall
    assert len(way(table, (2, 2), (6, 6))) == 2


def test_even_ground_and_ground_without_outward_corners_need_no_table() -> None:
    assert routes(ground()) is None
    assert routes(ground((range(8), range(32)))) is None


def shortest_by_steps(pathable: npt.NDArray[np.bool_], start: Cell) -> dict[Cell, float]:
    """Dijkstra over the eight neighbours of a cell, none of them past a corner of wall."""
    found: dict[Cell, float] = {}
    queue: list[tuple[float, Cell]] = [(0.0, start)]
    while queue:
        length, (x, y) = heapq.heappop(queue)
        if (x, y) in found:
            continue
        found[x, y] = length
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                to = (x + dx, y + dy)
                inside = 0 <= to[0] < 32 and 0 <= to[1] < 32
                if inside and pathable[to] and pathable[x, to[1]] and pathable[to[0], y]:
                    heapq.heappush(queue, (length + math.hypot(dx, dy), to))
    return found


@pytest.mark.parametrize("name", WALLED)
def test_ways_are_as_short_as_they_can_be(name: str) -> None:
    """No longer than by steps from cell to cell, which take a detour of up to 8 % by themselves."""
    terrain = load_scenario(name).terrain
    table = routes(terrain)
    assert table is not None
    cells: list[Cell] = [(int(x), int(y)) for x, y in np.argwhere(terrain.pathable)]
    draw = np.random.default_rng(0)
    for start in (cells[i] for i in draw.choice(len(cells), 12)):
        lengths = shortest_by_steps(terrain.pathable, start)
        assert set(lengths) == set(cells)  # the ground of these maps is all one
        for goal in (cells[i] for i in draw.choice(len(cells), 40)):
            stops = [start, *way(table, start, goal)]
            length = sum(math.dist(a, b) for a, b in itertools.pairwise(stops))
            assert math.dist(start, goal) - 1e-9 <= length <= lengths[goal] + 1e-9


def walker(name: str, kind: str, n_envs: int) -> tuple[SkirmishEnv, npt.NDArray[np.float64]]:
    """A single enemy on a map's ground, in each battle somewhere and sent somewhere: [2, E]."""
    base = load_scenario(name)
    at = base.allies[0].at
    field = replace(scenario(["marine"], [kind], at=(at, at)), terrain=base.terrain)
    env = SkirmishEnv(field, n_envs)
    alter(env, 0, health=0)
    radius = units(env)[1].separation_radius
    wide = np.pad(base.terrain.pathable, 1)
    draw = np.random.default_rng(1)

    def somewhere() -> tuple[float, float]:
        while True:
            x, y = (draw.integers(0, 32 * 64, 2) / 64).tolist()
            edges = ((x + dx * radius, y + dy * radius) for dx, dy in AROUND)
            if all(wide[math.floor(a) + 1, math.floor(b) + 1] for a, b in edges):
                return x, y

    starts, goals = (np.array([somewhere() for _ in range(n_envs)]).T for _ in range(2))
    world = env.world
    places = {}
    for what, values in zip(("x", "y", "goal_x", "goal_y"), (*starts, *goals), strict=True):
        places[what] = getattr(world, what).clone()
        places[what][1] = torch.as_tensor(values)
    env.put(replace(world, **places))
    return env, goals


AROUND = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


@pytest.mark.parametrize("kind", ["zergling", "stalker"])
@pytest.mark.parametrize("name", [*WALLED, "bane_vs_bane"])
def test_whoever_walks_arrives(name: str, kind: str) -> None:
    """From anywhere to anywhere, slim or wide, and never off the ground."""
    env, goals = walker(name, kind, 128)
    pathable = env.scenario.terrain.pathable
    for _ in range(30):  # 44 of way, on a map whose diagonal is 45
        command(env, 0)
        x, y = see(env, "x")[:, 1], see(env, "y")[:, 1]
        assert pathable[x.astype(int), y.astype(int)].all()
    assert np.hypot(x - goals[0], y - goals[1]).max() < 0.1


@pytest.mark.parametrize("name", ["corridor", "so_many_baneling"])
def test_enemies_reach_the_far_point_when_nobody_stops_them(name: str) -> None:
    env = SkirmishEnv(name, 4, seed=1)
    n = env.info.n_agents
    pathable = env.scenario.terrain.pathable
    for unit in range(n):
        alter(env, unit, health=0)
    for _ in range(34):
        command(env, *[0] * n)
        x, y = see(env, "x")[:, n:], see(env, "y")[:, n:]
        assert pathable[x.astype(int), y.astype(int)].all()
    assert np.hypot(x - 4.47, y - 4.3298).max() < 3  # around it, in the group's order
    for values, goal in ((x, "goal_x"), (y, "goal_y")):
        assert np.abs(values - see(env, goal)[:, n:]).max() < 0.1


def test_zerglings_take_the_ramps_to_colossi_on_the_high_ground() -> None:
    """64 of them from the low ground, by the shelves at the sides and up: nobody stays behind."""
    env = SkirmishEnv("2c_vs_64zg", 4, seed=1)
    terrain = env.scenario.terrain
    on_ramp = np.zeros((4, 64), dtype=bool)
    for _ in range(40):
        for unit in range(2):  # they stand, and nothing harms them
            alter(env, unit, health=200, shield=150, cooldown=NEVER)
        command(env, STOP, STOP)
        x, y = see(env, "x")[:, 2:], see(env, "y")[:, 2:]
        cells = x.astype(int), y.astype(int)
        assert terrain.pathable[cells].all()
        level = terrain.level[cells]
        on_ramp |= (level > 1) & (level < 2)
    assert on_ramp.mean() > 0.95  # three cells of ramp take two steps: hardly one is missed
    assert (level == 2).all()
    colossi = see(env, "x")[:, None, :2], see(env, "y")[:, None, :2]
    apart = np.hypot(x[:, :, None] - colossi[0], y[:, :, None] - colossi[1]).min(2)
    # 64 circles of 0.375 packed about two points need a radius of some 2.5 around each.
    assert apart.max() < 4.5


@pytest.mark.parametrize("at", [(16, 11.4), (1.6, 12.4), (7.6, 14.5), (24.4, 13.6), (5.5, 5.6)])
def test_a_crowd_pushes_nobody_over_a_wall(at: tuple[float, float]) -> None:
    """Two to 64 zerglings within 0.4 of a point by a wall: they burst apart, but not into it."""
    env = SkirmishEnv("2c_vs_64zg", 64, seed=1)
    draw = torch.Generator().manual_seed(2)
    world = env.world
    x, y = ((torch.rand(64, 64, generator=draw) * 3276).round() / 4096 - 0.4 for _ in "xy")
    on_grid = [round(v * 4096) / 4096 for v in at]
    alive = torch.arange(64)[:, None] < torch.arange(2, 66)[None]
    crowd = replace(
        world,
        x=torch.cat((world.x[:2], ((x * 4096).round() / 4096 + on_grid[0]))),
        y=torch.cat((world.y[:2], ((y * 4096).round() / 4096 + on_grid[1]))),
        health=torch.cat((world.health[:2], world.health[2:] * alive)),
    )
    env.put(crowd)
    for _ in range(4):
        command(env, STOP, STOP, loops=1)
        at_x, at_y = see(env, "x")[:, 2:], see(env, "y")[:, 2:]
        assert env.scenario.terrain.pathable[at_x.astype(int), at_y.astype(int)].all()
    assert np.ptp(at_x, 1)[-1] + np.ptp(at_y, 1)[-1] > 4


def in_contact(terrain: Terrain | None) -> float:
    """How many of 24 zerglings reach one of six zealots that hold the corridor's choke.

    Four stand abreast at y = 12.5, two behind them; the zerglings come from the north-east and
    are bound for the far side. Without a terrain, all the same in the open.
    """
    zealots = [Placed(11.5 + i, 12.5) for i in range(4)] + [Placed(12.5 + i, 11.5) for i in (0, 1)]
    lings = [Placed(14 + 0.8 * (i % 6), 17 + 0.8 * (i // 6), goal=(7, 4)) for i in range(24)]
    field = scenario(["zealot"] * 6, ["zergling"] * 24, at=((19, 19), (19, 19)))
    env = SkirmishEnv(replace(field, terrain=terrain) if terrain else field, 8, seed=2)
    for unit, placed in enumerate(zealots + lings):
        put(env, unit, placed)
    counts = []
    for _ in range(30):
        for unit in range(6):
            alter(env, unit, health=100, shield=50, cooldown=NEVER)
        command(env, *[STOP] * 6)
        x, y = see(env, "x"), see(env, "y")
        dx, dy = (v[:, 6:, None] - v[:, None, :6] for v in (x, y))
        reached = (np.hypot(dx, dy) <= 0.1 + 0.375 + 0.5 + 1 / 64).any(2)
        counts.append(reached.sum(1).mean())
        if terrain:
            assert (y[:, 6:] > 12).all()  # nobody has slipped through
    return float(np.mean(counts[10:]))


def test_the_choke_of_the_corridor_holds() -> None:
    """Its four cells are as wide as four zealots: the front is all that can be reached."""
    choke, field = in_contact(load_scenario("corridor").terrain), in_contact(None)
    assert choke <= 6
    assert field >= choke + 2
