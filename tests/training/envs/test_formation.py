"""Where units stand at first, worked out by hand, and as recorded from battles of the real game.

Who is created at a point stands on a square lattice round it, a step of twice its radius wide. In
the first ring it slides toward the point to where circles touch, 252 / 4096 = 0.0615 deep:
    marines   0.375 + 0.375 - 0.0615 = 0.6885     zealots  0.5 + 0.5 - 0.0615 = 0.9385
    stalkers  0.625 + 0.625 - 0.0615 = 1.1885     zealot at stalker 1.0635
"""

from __future__ import annotations

import numpy as np
import pytest

from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.formation import CONTACT, place
from training.envs.skirmish.scenario import (
    MAP_SIZE,
    ScenarioError,
    Spawn,
    load_scenario,
    map_names,
    unit_types,
)
from training.envs.skirmish.world import spawn_positions

PLAIN = load_scenario("3s_vs_3z").terrain
AT = (9.0, 16.0)
RECORDED = 3e-4  # places are recorded to four decimals, and slides have steps of 1/1024


def offsets(**counts: int) -> list[list[float]]:
    """Units of these types in the order of their creation, from the point on."""
    spawns = tuple(Spawn(unit_types()[kind], count, AT) for kind, count in counts.items())
    found: list[list[float]] = (place(spawns, PLAIN) - np.array(AT)).tolist()
    return found


def about(*places: tuple[float, float]) -> list[object]:
    return [pytest.approx(at, abs=RECORDED) for at in places]


def off(one: list[float], other: tuple[float, float]) -> float:
    return float(np.hypot(one[0] - other[0], one[1] - other[1]))


def test_marines_stand_where_they_are_recorded() -> None:
    # In the first ring from south on counter-clockwise, touching; corners come from two sides at
    # once and stay on the lattice, here the first of them in the south-east.
    touch = (0, -0.6885), (0.6885, 0), (0, 0.6885), (-0.6885, 0)
    corners = (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)
    assert offsets(marine=8) == about((0, 0), *touch, *corners)


def test_zealots_stand_where_they_are_recorded() -> None:
    touch = (0, -0.9385), (0.9385, 0), (0, 0.9385), (-0.9385, 0)
    assert offsets(zealot=6) == about((0, 0), *touch, (1, -1))


def test_the_second_ring_stays_on_the_lattice() -> None:
    # The first ring's last corner, then two steps of 0.75 off: south, east, north, west.
    ring = (0, -1.5), (1.5, 0), (0, 1.5), (-1.5, 0)
    assert offsets(marine=13)[8:] == about((-0.75, -0.75), *ring)


def test_of_eight_equally_far_each_quarter_turn_comes_in_turn() -> None:
    # Three rings of marines are 1 + 8 + 4; then the places at (1, 2) steps: those nearer
    # after south, east, north and west come before those later in their quarter turn.
    knights = [(0.75, -1.5), (1.5, 0.75), (-0.75, 1.5), (-1.5, -0.75)]
    later = [(1.5, -0.75), (0.75, 1.5), (-1.5, 0.75), (-0.75, -1.5)]
    assert offsets(marine=21)[13:] == about(*knights, *later)


def test_stalkers_and_zealots_stand_where_they_are_recorded() -> None:
    *stalkers, first, second, third = offsets(stalker=2, zealot=3)
    assert stalkers == about((0, 0), (0, -1.1885))
    assert [second, third] == [
        pytest.approx(at, abs=1e-3) for at in ((0.7517, 0.7517), (-0.752, 0.7517))
    ]
    # The first slides round a stalker and comes to lie between both, 1.0635 from either: 0.5943
    # below the point, and the root of 1.0635^2 - 0.5943^2 beside it. The game was seen to leave it
    # at either of two places a bit short of it.
    assert first == pytest.approx((0.8819, -0.5943), abs=2e-3)
    assert off(first, (0.9414, -0.4946)) < 0.12
    assert off(first, (0.9194, -0.6545)) < 0.08


def test_marauders_stand_near_where_they_are_recorded() -> None:
    placed = offsets(marine=7, marauder=2, medivac=1)
    # It comes from (-1.125, 1.125) and slides to between two marines.
    assert off(placed[7], (-0.8311, 0.9661)) < 0.12
    assert placed[9] == [0, 0]  # in the air, where nobody is in its way
    # Theirs on MMM2: eight marines take one of the marauders' corners, and so the third one has to
    # go out to the third ring's east.
    theirs = offsets(marine=8, marauder=3, medivac=1)
    assert theirs[10:] == [[2.25, 0], [0, 0]]


def test_who_does_not_collide_stands_on_the_point_itself() -> None:
    # A second medivac touches the first at 0.75 + 0.75, a second colossus at 1 + 1, less 0.0615.
    assert offsets(marine=1, medivac=2) == about((0, 0), (0, 0), (0, -1.4385))
    assert offsets(colossus=2, zealot=1) == about((0, 0), (0, -1.9385), (0, 0))


def test_both_teams_stand_alike() -> None:
    for name in ("3m", "2s3z", "MMM", "1c3s5z"):
        scenario = load_scenario(name)
        allies = place(scenario.allies, scenario.terrain) - np.array(scenario.allies[0].at)
        enemies = place(scenario.enemies, scenario.terrain) - np.array(scenario.enemies[0].at)
        assert allies == pytest.approx(enemies, abs=2e-3), name


def test_agents_are_numbered_from_west_to_east_within_their_type() -> None:
    allies, _ = spawn_positions(load_scenario("3m"))
    assert (allies - np.array(AT)).tolist() == about((0, -0.6885), (0, 0), (0.6885, 0))
    assert SkirmishEnv("3m", 1).world.x[:3, 0].tolist() == pytest.approx(allies[:, 0], abs=2e-4)


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
                    # Touching, or on the lattice a bit deeper than that.
                    apart = np.hypot(x - there[0], y - there[1])
                    assert apart >= unit.radius + other.radius - 2 * CONTACT - 1e-5


def test_zerglings_below_the_cliff_stay_below() -> None:
    scenario = load_scenario("2c_vs_64zg")
    placed = place(scenario.enemies, scenario.terrain)
    assert len(placed) == 64
    assert placed[:, 1].max() <= 12 - 0.375


def test_no_room_is_said() -> None:
    crowd = (Spawn(unit_types()["spine_crawler"], 500, AT),)
    with pytest.raises(
        ScenarioError, match=r"no room for spine_crawler number \d+ of its side around its point"
    ):
        place(crowd, PLAIN)
    # A cell of its own, too narrow for who must stand there.
    island = load_scenario("corridor").terrain
    nook = (Spawn(unit_types()["stalker"], 1, (2.2, 31.9)),)
    with pytest.raises(ScenarioError, match=r"no room for stalker number 1"):
        place(nook, island)
