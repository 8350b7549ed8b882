"""The batched protocol, held by every environment alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.training.envs import conformance
from tests.training.envs.battlefield import GRAIN, see
from tests.training.envs.conformance import Build
from training.envs import make_env
from training.envs.base import BatchedEnv
from training.envs.skirmish.env import SkirmishEnv

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
