"""Where units stand at first: apart, on their own ground, and by hand where it can be said."""

from __future__ import annotations

import numpy as np
import pytest

from training.envs.skirmish.formation import place
from training.envs.skirmish.scenario import (
    MAP_SIZE,
    ScenarioError,
    Spawn,
    load_scenario,
    map_names,
    unit_types,
)

PLAIN = load_scenario("3s_vs_3z").terrain


def test_marines_stand_round_the_first_clockwise_from_east() -> None:
    # 0.375 + 0.375 apart is six steps of the grid of 1/8.
    placed = place((Spawn(unit_types()["marine"], 5, (9.0, 16.0)),), PLAIN)
    ring = [(9, 16), (9.75, 16), (9, 15.25), (8.25, 16), (9, 16.75)]
    assert placed.tolist() == [list(at) for at in ring]


def test_wider_units_keep_wider_apart() -> None:
    # 0.625 + 0.625 = 1.25; stalker and zealot 0.625 + 0.375 = 1.
    kinds = unit_types()
    at = (9.0, 16.0)
    placed = place((Spawn(kinds["stalker"], 2, at), Spawn(kinds["zealot"], 1, at)), PLAIN)
    assert placed.tolist() == [[9, 16], [10.25, 16], [9, 15]]


def test_who_does_not_collide_stands_on_the_point_itself() -> None:
    kinds = unit_types()
    at = (9.0, 16.0)
    with_air = place((Spawn(kinds["marine"], 1, at), Spawn(kinds["medivac"], 2, at)), PLAIN)
    assert with_air.tolist() == [[9, 16], [9, 16], [10.5, 16]]
    with_legs = place((Spawn(kinds["colossus"], 2, at), Spawn(kinds["zealot"], 1, at)), PLAIN)
    assert with_legs.tolist() == [[9, 16], [10.5, 16], [9, 16]]


@pytest.mark.parametrize("name", map_names())
def test_on_every_map_units_stand_apart_on_their_ground(name: str) -> None:
    scenario = load_scenario(name)
    terrain = scenario.terrain
    for spawns, kinds in (
        (scenario.allies, scenario.ally_units),
        (scenario.enemies, scenario.enemy_units),
    ):
        placed = place(spawns, terrain)
        points = [spawn.at for spawn in spawns for _ in range(spawn.count)]
        for i, (unit, (x, y)) in enumerate(zip(kinds, placed, strict=True)):
            cell, point = (int(x), int(y)), (int(points[i][0]), int(points[i][1]))
            assert terrain.pathable[cell]
            assert terrain.level[cell] == terrain.level[point]
            assert unit.separation_radius <= x <= MAP_SIZE - unit.separation_radius
            assert np.hypot(x - points[i][0], y - points[i][1]) < 6
            for other, there in zip(kinds[:i], placed[:i], strict=True):
                if unit.collides_with(other):
                    apart = np.hypot(x - there[0], y - there[1])
                    assert apart >= unit.separation_radius + other.separation_radius - 1e-5


def test_zerglings_below_the_cliff_stay_below() -> None:
    scenario = load_scenario("2c_vs_64zg")
    placed = place(scenario.enemies, scenario.terrain)
    assert len(placed) == 64
    assert placed[:, 1].max() <= 12 - 0.375


def test_no_room_is_said() -> None:
    crowd = (Spawn(unit_types()["spine_crawler"], 100, (9.0, 16.0)),)
    with pytest.raises(
        ScenarioError, match=r"no room for spine_crawler number \d+ of its side within 8"
    ):
        place(crowd, PLAIN)
    # A cell of its own, too narrow for who must stand there.
    island = load_scenario("corridor").terrain
    nook = (Spawn(unit_types()["stalker"], 1, (2.2, 31.9)),)
    with pytest.raises(ScenarioError, match=r"no room for stalker number 1"):
        place(nook, island)
