"""The batched protocol, held by every environment alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.training.envs import conformance
from tests.training.envs.battlefield import (
    EAST,
    GRAIN,
    STOP,
    Placed,
    battle,
    command,
    of,
    scenario,
    see,
)
from tests.training.envs.conformance import Build
from training.envs import make_env
from training.envs.base import BatchedEnv
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.scenario import load_scenario
from training.envs.skirmish.world import spawn_positions

CHECKS = [
    conformance.check_shapes,
    conformance.check_unavailable_actions,
    conformance.check_ended_battles_stand_still,
    conformance.check_a_reset_touches_only_its_slots,
    conformance.check_a_battle_is_the_same_anywhere,
    conformance.check_the_same_seed_plays_the_same,
    conformance.check_a_saved_state_goes_on,
]


def builder(name: str, map_name: str) -> Build:
    def build(n_envs: int, seed: int) -> BatchedEnv:
        return make_env(name, map_name, n_envs, seed=seed)

    return build


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    ("name", "map_name"), [("two_step", "two_step"), ("skirmish", "3m"), ("skirmish", "3s5z")]
)
def test_protocol(name: str, map_name: str, check: Callable[[Build], None]) -> None:
    check(builder(name, map_name))


def test_seeds_and_numbers_make_battles_differ() -> None:
    conformance.check_seeds_and_numbers_make_battles_differ(builder("skirmish", "3m"))


def test_battles_begin_alike_with_the_enemy_one_loop_on_its_way() -> None:
    env = SkirmishEnv("3m", 16)
    x, y = see(env, "x"), see(env, "y")
    assert (x == x[0]).all()
    assert (y == y[0]).all()
    # In the order of their creation: at the point, south of it, east of it, touching. All head for
    # (9, 16) less the group's middle: 14 west, and a bit north (recorded: 9/4096 a loop).
    way = np.array([-576, 9]) / GRAIN
    touch = 0.75 - 252 / GRAIN
    places = np.array([(23, 16), (23, 16 - touch), (23 + touch, 16)]) + way
    assert np.stack((x[0, 3:], y[0, 3:]), 1) == pytest.approx(places, abs=1 / GRAIN)


def test_a_step_is_cut_to_whole_grains_along_each_axis() -> None:
    """The group's middle lies 0.2295 east and as much south of the first marine, so each has
    14.2295 to go west and 0.2295 north: 575.92 and 9.29 of a loop's 576 grains."""
    env = SkirmishEnv("3m", 4)
    _, spawn = spawn_positions(load_scenario("3m"))
    for what, axis, grains in (("x", 0, -575), ("y", 1, 9)):
        began = np.round(spawn[:, axis] * GRAIN)
        assert np.array_equal(see(env, what)[:, 3:] * GRAIN - began, np.full((4, 3), grains)), what
    # Straight on there is nothing to cut: a marine's 576 grains a loop stay whole.
    env = battle({"marine": [Placed(9, 16)]}, {"marine": [Placed(30, 1)]}, step_mul=1)
    for loop in range(1, 20):
        command(env, EAST)
        assert (of(env, "x", 0) - 9) * GRAIN == 576 * loop


def test_enemies_are_on_their_way_for_one_loop_and_agents_stand() -> None:
    # Places such as 2s3z's, where zealots slide round a stalker, are on no grid by themselves.
    for name in ("3m", "2s3z", "MMM2", "6h_vs_8z"):
        env = SkirmishEnv(name, 1)
        n = env.info.n_agents
        allies, enemies = spawn_positions(env.scenario)
        assert see(env, "x")[0, :n] == pytest.approx(allies[:, 0], abs=1 / GRAIN)
        came = np.hypot(see(env, "x")[0, n:] - enemies[:, 0], see(env, "y")[0, n:] - enemies[:, 1])
        loop = [unit.acceleration or unit.speed for unit in env.scenario.enemy_units]
        assert came == pytest.approx(loop, abs=2 / GRAIN)


def test_who_is_sent_where_it_stands_stays_there() -> None:
    # From its point it is 0.0625 to where it is sent, half of a loop's way; or nothing but what
    # is cut from 23.1 to come onto the grain.
    for at, to in ((23.0, 23.0625), (23.1, 23.1)):
        field = scenario(["marine"], ["marine"], to=(to, 16), at=((2, 28), (at, 16)))
        env = SkirmishEnv(field, 1)
        for _ in range(3):
            assert of(env, "x", 1) == pytest.approx(to, abs=1 / GRAIN)
            assert of(env, "y", 1) == 16
            command(env, STOP)


def test_agents_are_numbered_by_type_then_x_then_y() -> None:
    env = SkirmishEnv("3s5z", 1)
    x, y = see(env, "x")[0], see(env, "y")[0]
    for agents in (range(3), range(3, 8)):
        places = [(x[i], y[i]) for i in agents]
        assert places == sorted(places)


def test_actions_of_another_shape_are_refused() -> None:
    env = SkirmishEnv("3m", 2)
    with pytest.raises(ValueError, match=r"actions have shape \(2, 4\), expected \(2, 3\)"):
        env.step(torch.ones(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="n_envs must be at least 1, not 0"):
        SkirmishEnv("3m", 0)
