"""Availability, observations and state: hand-worked values, and a slow reference beside them."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.training.envs import reference
from tests.training.envs.battlefield import (
    ATTACK,
    EAST,
    GRAIN,
    NEVER,
    NORTH,
    SOUTH,
    STOP,
    WEST,
    Placed,
    act,
    alter,
    battle,
    put,
    random_actions,
    scatter,
    scenario,
    show,
)
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.layout import build_layout
from training.envs.skirmish.options import OptionError, SkirmishOptions
from training.envs.skirmish.scenario import load_scenario
from training.types import Observation

SLIGHTLY = 1 / GRAIN


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def one_hot(action: int, n_actions: int) -> list[float]:
    return [float(a == action) for a in range(n_actions)]


@pytest.fixture(scope="module")
def arranged() -> SkirmishEnv:
    """A 2s3z battle with every unit placed: agents 0-1 stalkers, 2-4 zealots; so the enemies."""
    env = SkirmishEnv("2s3z", 1)
    allies = [
        Placed(10, 16, health=60, cooldown=7),
        Placed(7, 12, shield=40),
        Placed(11, 16, health=0, shield=20, cooldown=4),  # dead: it shows nothing of all this
        Placed(0.5, 16),
        Placed(10, 13, health=25, shield=0, cooldown=11),
    ]
    enemies = [
        Placed(16, 16, health=40, shield=0),
        Placed(19, 16),
        Placed(10, 24.9375, health=50, shield=10),
        Placed(11, 16, health=0),
        Placed(13, 20),
    ]
    for unit, placed in enumerate(allies + enemies):
        put(env, unit, placed)
    return env


def test_an_observation_by_hand(arranged: SkirmishEnv) -> None:
    obs = show(arranged).obs[0, 0].numpy()
    moves = [1, 1, 1, 1]
    enemies: list[list[float]] = [
        [1, 6 / 9, 6 / 9, 0, 40 / 80, 0, 0, 1],  # at 6: just shootable; a stalker is bit 1
        [0] * 8,  # at 9: just out of sight
        [0, 8.9375 / 9, 0, 8.9375 / 9, 50 / 100, 10 / 50, 1, 0],  # in sight; a zealot is bit 0
        [0] * 8,  # dead
        [1, 5 / 9, 3 / 9, 4 / 9, 1, 1, 1, 0],  # a triangle of 3, 4 and 5
    ]
    allies: list[list[float]] = [
        [1, 5 / 9, -3 / 9, -4 / 9, 1, 40 / 80, 1, 0],  # agent 1; our stalkers are bit 0
        [0] * 8,  # agent 2 is dead
        [0] * 8,  # agent 3 stands 9.5 away
        [1, 3 / 9, 0, -3 / 9, 25 / 100, 0, 0, 1],  # agent 4
    ]
    own = [60 / 80, 1, 1, 0]
    expected = f32(*moves, *chain(*enemies), *chain(*allies), *own)
    assert obs.shape == (80,)
    assert np.array_equal(obs, expected)


def test_others_are_listed_in_ascending_order_without_oneself(arranged: SkirmishEnv) -> None:
    obs = show(arranged).obs[0, 4].numpy()  # the zealot at (10, 13)
    allies = obs[4 + 5 * 8 :][: 4 * 8].reshape(4, 8)
    assert np.array_equal(allies[0], f32(1, 3 / 9, 0, 3 / 9, 60 / 80, 1, 1, 0))  # agent 0
    # Agent 1 at (7, 12): sqrt(9 + 1) away.
    assert np.array_equal(allies[1], f32(1, 10**0.5 / 9, -3 / 9, -1 / 9, 1, 40 / 80, 1, 0))
    assert not allies[2].any()  # agent 2, dead
    assert not allies[3].any()  # agent 3 at (0.5, 16), sqrt(9.5² + 3²) = 9.96 away
    assert np.array_equal(obs[-4:], f32(25 / 100, 0, 0, 1))


def test_the_dead_see_nothing_and_can_only_do_nothing(arranged: SkirmishEnv) -> None:
    shown = show(arranged)
    assert not shown.obs[0, 2].any()
    assert shown.avail_actions[0, 2].tolist() == [True] + [False] * 10


def test_a_state_by_hand(arranged: SkirmishEnv) -> None:
    state = show(arranged).state[0].numpy()
    allies: list[list[float]] = [
        [60 / 80, 7 / 35, -6 / 32, 0, 1, 1, 0],  # SMAC divides a stalker's cooldown by 35
        [1, 0, -9 / 32, -4 / 32, 40 / 80, 1, 0],
        [0] * 7,
        [1, 0, -15.5 / 32, 0, 1, 0, 1],
        [25 / 100, 11 / 22, -6 / 32, -3 / 32, 0, 0, 1],  # and a zealot's by 22
    ]
    enemies: list[list[float]] = [
        [40 / 80, 0, 0, 0, 0, 1],
        [1, 3 / 32, 0, 1, 0, 1],
        [50 / 100, -6 / 32, 8.9375 / 32, 10 / 50, 1, 0],
        [0] * 6,
        [1, -3 / 32, 4 / 32, 1, 1, 0],
    ]
    last_actions = [0.0] * 55  # right after a reset
    assert state.shape == (120,)
    assert np.array_equal(state, f32(*chain(*allies), *chain(*enemies), *last_actions))


def test_marines_have_no_shields_and_a_divisor_of_15() -> None:
    env = SkirmishEnv("2m_vs_1z", 1)
    put(env, 0, Placed(16, 16, health=15, cooldown=3))
    put(env, 1, Placed(20, 16))
    shown = put(env, 2, Placed(16, 12, health=100, shield=25))
    assert np.array_equal(
        shown.state[0, :-14].numpy(),
        f32(15 / 45, 3 / 15, 0, 0, 1, 0, 4 / 32, 0, 1, 0, -4 / 32, 25 / 50),
    )
    assert np.array_equal(
        shown.obs[0, 0].numpy(),
        f32(1, 1, 1, 1, 1, 4 / 9, 0, -4 / 9, 1, 25 / 50, 1, 4 / 9, 4 / 9, 0, 1, 15 / 45),
    )


@pytest.mark.parametrize(
    ("dx", "dy", "shootable", "visible"),
    [
        (6 + SLIGHTLY, 0, False, True),
        (3.5, 4.75, True, True),  # sqrt(12.25 + 22.5625) = 5.9
        (3.5, 4.875, False, True),  # sqrt(12.25 + 23.765625) = 6.001
        (6, 0, True, True),
        (0, 9 - SLIGHTLY, False, True),
        (0, 9, False, False),
    ],
)
def test_reach_and_sight(dx: float, dy: float, shootable: bool, visible: bool) -> None:
    env = battle({"marine": [Placed(10, 16)]}, {"marine": [Placed(10, 16)]})
    shown = put(env, 1, Placed(10 + dx, 16 + dy))
    assert shown.avail_actions[0, 0, ATTACK].item() is shootable
    assert bool(shown.obs[0, 0, 4:9].any()) is visible
    assert shown.obs[0, 0, 4].item() == float(shootable)


@pytest.mark.parametrize(
    ("x", "y", "blocked"),
    [
        (16, 16, set()),
        (0.5, 16, set()),  # going west: int(-0.5) is 0, which is still on the map
        (0, 16, {WEST}),  # int(-1) is not
        (31 - SLIGHTLY, 16, set()),
        (31, 16, {EAST}),
        (16, 8, set()),  # rows 7 to 24 are ground
        (16, 8 - SLIGHTLY, {SOUTH}),
        (16, 24 - SLIGHTLY, set()),
        (16, 24, {NORTH}),
        (31.5, 24.5, {NORTH, EAST}),
    ],
)
def test_moves_look_at_the_cell_at_distance_1(x: float, y: float, blocked: set[int]) -> None:
    env = SkirmishEnv("3m", 1)
    row = put(env, 0, Placed(x, y)).avail_actions[0, 0]
    moves = {NORTH, SOUTH, EAST, WEST}
    assert {a for a in moves if not row[a]} == blocked
    assert row[:2].tolist() == [False, True]


def test_others_never_block_a_move() -> None:
    env = SkirmishEnv("3m", 1)
    put(env, 1, Placed(9, 17))
    put(env, 3, Placed(10, 16))
    assert put(env, 0, Placed(9, 16)).avail_actions[0, 0, 1:6].all()


def test_moves_look_half_as_far_as_they_go() -> None:
    env = SkirmishEnv("3m", 1, move_amount=4)
    row = put(env, 0, Placed(29.5, 9 - SLIGHTLY)).avail_actions[0, 0]
    assert row[[NORTH, SOUTH, EAST, WEST]].tolist() == [True, False, True, True]
    row = put(env, 0, Placed(30, 9)).avail_actions[0, 0]
    assert row[[NORTH, SOUTH, EAST, WEST]].tolist() == [True, True, False, True]


def test_the_state_ends_with_the_last_actions_of_all() -> None:
    env = SkirmishEnv("3m", 2)
    alter(env, 1, health=0)
    state = act(env, EAST, 0, STOP).observation.state
    expected = one_hot(EAST, 9) + one_hot(0, 9) + one_hot(STOP, 9)  # a dead agent's no-op counts
    assert state[:, -27:].tolist() == [expected] * 2
    state = env.reset(torch.tensor([True, False])).state
    assert state[:, -27:].tolist() == [[0.0] * 27, expected]


def test_the_state_without_last_actions_and_with_the_time() -> None:
    env = SkirmishEnv("3m", 1, state_last_action=False, state_timestep_number=True)
    assert env.info.state_dim == 48 - 27 + 1
    assert env.reset().state[0, -1].item() == 0
    act(env, STOP, STOP, STOP)
    state = act(env, STOP, STOP, STOP).observation.state[0]
    assert len(state) == 22
    assert state[-1].item() == np.float32(2 / 60)


def test_the_last_actions_of_visible_allies() -> None:
    env = SkirmishEnv("3m", 1, obs_last_action=True)
    assert env.info.obs_dim == 30 + 2 * 9
    put(env, 0, Placed(9, 16))
    put(env, 1, Placed(9, 14))
    allies = put(env, 2, Placed(25, 16)).obs[0, 0, 4 + 3 * 5 : -1].reshape(2, 5 + 9)
    assert allies[0, :5].tolist() == f32(1, 2 / 9, 0, -2 / 9, 1).tolist()
    assert not allies[0, 5:].any()  # right after a reset
    allies = act(env, STOP, SOUTH, STOP).observation.obs[0, 0, 19:-1].reshape(2, 14)
    assert allies[0, 0] == 1
    assert allies[0, 5:].tolist() == one_hot(SOUTH, 9)
    assert not allies[1].any()  # agent 2 is out of sight, and so is what it did


def test_health_need_not_be_observed() -> None:
    none = SkirmishEnv("2m_vs_1z", 1, obs_all_health=False, obs_own_health=False)
    assert none.info.obs_dim == 4 + 4 + 4  # moves, one enemy, one ally: no health, no shield
    own = SkirmishEnv("2m_vs_1z", 1, obs_all_health=False)
    assert own.info.obs_dim == 13
    implied = SkirmishEnv("2m_vs_1z", 1, obs_own_health=False)  # all_health implies it, as in SMAC
    assert implied.info.obs_dim == 16
    for env in (none, own):
        put(env, 0, Placed(13, 12, health=30))
        put(env, 1, Placed(15, 12))
        obs = put(env, 2, Placed(13, 16)).obs[0, 0]
        assert np.array_equal(obs[:12], f32(1, 1, 1, 1, 1, 4 / 9, 0, 4 / 9, 1, 2 / 9, 2 / 9, 0))
    assert obs[12].item() == np.float32(30 / 45)
    stalkers = SkirmishEnv("2s3z", 1, obs_all_health=False)
    assert stalkers.info.obs_dim == 4 + 5 * 6 + 4 * 6 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"obs_timestep_number": True}, "obs_timestep_number is not supported.*one value longer"),
        ({"obs_last_actoin": True}, "'obs_last_actoin'; did you mean obs_last_action"),
        ({"wibble": 1}, "unknown environment option 'wibble'; known are step_mul"),
        ({"step_mul": 0}, "step_mul must be at least 1, not 0"),
        ({"step_mul": 2.5}, "step_mul must be a int, not 2.5"),
        ({"step_mul": True}, "step_mul must be a int, not True"),
        ({"reward_win": "200"}, "reward_win must be a float, not '200'"),
        ({"reward_sparse": 1}, "reward_sparse must be a bool, not 1"),
        ({"move_amount": -2}, "move_amount must be positive, not -2"),
        ({"reward_scale_rate": 0}, "reward_scale_rate must be positive, not 0"),
        ({"enemy_order": "random"}, "enemy_order must be one of creation, .*, not 'random'"),
        ({"enemy_order": True}, "enemy_order must be a str, not True"),
        ({"obs_pathing_grid": True, "move_amount": 1.5}, "move_amount must be a whole number"),
        ({"difficulty": "7"}, "difficulty is an option of the real game"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SkirmishEnv("3m", 1, **options)


@pytest.mark.parametrize("name", reference.MAPS)
def test_scattered_units_show_what_the_reference_says(name: str) -> None:
    env = SkirmishEnv(name, 4, obs_pathing_grid=True)
    draws = torch.Generator().manual_seed(29)
    last = np.full((4, env.info.n_agents), -1)  # right after a reset
    for _ in range(2):
        _compare(scatter(env, draws), env, last, pathing=True)


def _compare(
    shown: Observation, env: SkirmishEnv, last: npt.NDArray[np.int64], pathing: bool = False
) -> None:
    for slot, expected in enumerate(reference.show(env, last, pathing=pathing)):
        assert np.array_equal(shown.avail_actions[slot].numpy(), expected.avail)
        assert np.array_equal(shown.obs[slot].numpy(), expected.obs)
        assert np.array_equal(shown.state[slot].numpy(), expected.state)


@pytest.mark.parametrize("name", ["2s3z", "5m_vs_6m", "2m_vs_1z", "MMM2", "bane_vs_bane"])
def test_random_battles_show_what_the_reference_says(name: str) -> None:
    env = SkirmishEnv(name, 3, seed=3)
    draws = torch.Generator().manual_seed(11)
    shown = env.reset()
    last = np.full((3, env.info.n_agents), -1)
    over = torch.zeros(3, dtype=torch.bool)
    deaths = 0
    for step in range(45):
        if step % 3 == 0:
            _compare(shown, env, last)
        actions = random_actions(shown.avail_actions, draws)
        after = env.step(actions)
        last = np.where(over[:, None].numpy(), last, actions.numpy())
        over = after.terminated | after.truncated
        shown, deaths = after.observation, int(after.dead_allies.sum())
    assert deaths > 0  # so the dead were compared too


def test_a_cooldown_beyond_smacs_divisor_is_shown_beyond_1() -> None:
    env = battle({"zealot": [Placed(9, 16, cooldown=33)]}, {"zealot": [Placed(20, 16)]})
    assert show(env).state[0, 1].item() == 1.5
    assert alter(env, 0, cooldown=NEVER).state[0, 1].item() == np.float32(NEVER / 22)


def test_what_is_left_of_a_loop_when_a_cooldown_ends_is_shown_as_0() -> None:
    env = battle({"zealot": [Placed(9, 16, cooldown=-0.75)]}, {"zealot": [Placed(20, 16)]})
    assert show(env).state[0, 1].item() == 0


FAR = Placed(2, 28)


@pytest.fixture(scope="module")
def mmm() -> SkirmishEnv:
    """MMM with every unit placed: agents 0-1 marauders, 2-8 marines, 9 a medivac at (16, 16);
    enemies 0-6 marines, 7-8 marauders, 9 a medivac."""
    env = SkirmishEnv("MMM", 1)
    allies = [FAR] * 9 + [Placed(16, 16, cooldown=7)]
    allies[0] = Placed(22, 16, health=50, cooldown=5)  # at 6: just to be healed
    allies[1] = Placed(22 + SLIGHTLY, 16)
    allies[2] = Placed(16, 16.5, cooldown=3)  # whole, and yet it can be healed
    allies[3] = Placed(16, 17, health=0)
    allies[4] = Placed(19, 20, health=15)
    enemies = [FAR] * 10
    enemies[0] = Placed(17, 16, health=9)
    enemies[1] = Placed(18, 16)
    enemies[9] = Placed(17, 15, health=30)
    for unit, placed in enumerate(allies + enemies):
        put(env, unit, placed)
    alter(env, 9, energy=30)
    return env


def test_a_medivac_heals_agents_and_nobody_attacks_less_for_it(mmm: SkirmishEnv) -> None:
    available = show(mmm).avail_actions[0, :, ATTACK:].int().tolist()
    assert available[9] == [1, 0, 1, 0, 1, 0, 0, 0, 0, 0]  # agents 0, 2 and 4; never itself
    assert available[4] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]  # a marine attacks enemies
    assert available[0] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]  # a marauder too, a flyer even
    assert available[3] == [0] * 10  # it is dead


def test_a_medivacs_enemy_blocks_begin_with_whom_it_can_heal(mmm: SkirmishEnv) -> None:
    enemies = show(mmm).obs[0, 9, 4 : 4 + 10 * 8].numpy().reshape(10, 8)
    assert np.array_equal(enemies[0], f32(1, 1 / 9, 1 / 9, 0, 9 / 45, 0, 1, 0))  # agent 0
    assert np.array_equal(enemies[1], f32(0, 2 / 9, 2 / 9, 0, 1, 0, 1, 0))  # agent 1 is too far
    assert not enemies[2].any()  # agent 2 it could heal, but enemy 2 is out of sight
    assert np.array_equal(enemies[9], f32(0, 2**0.5 / 9, 1 / 9, -1 / 9, 30 / 150, 0, 0, 1))
    seen_by_a_marine = show(mmm).obs[0, 4, 4 : 4 + 10 * 8].numpy().reshape(10, 8)
    assert seen_by_a_marine[[0, 1, 9], 0].tolist() == [1, 1, 1]


def test_the_state_shows_a_medivacs_energy(mmm: SkirmishEnv) -> None:
    allies = show(mmm).state[0, :70].numpy().reshape(10, 7)
    assert np.array_equal(allies[0], f32(50 / 125, 5 / 25, 6 / 32, 0, 1, 0, 0))
    assert np.array_equal(allies[2], f32(1, 3 / 15, 0, 0.5 / 32, 0, 1, 0))
    assert np.array_equal(allies[9], f32(1, 30 / 200, 0, 0, 0, 0, 1))  # it has no cooldown
    enemies = show(mmm).state[0, 70:130].numpy().reshape(10, 6)
    assert np.array_equal(enemies[9], f32(30 / 150, 1 / 32, -1 / 32, 0, 0, 1))


def test_a_medivac_heals_no_more_agents_than_there_are() -> None:
    env = SkirmishEnv("MMM2", 1)  # 10 agents, 12 enemies
    for unit in range(22):
        put(env, unit, Placed(16, 16))
    available = show(env).avail_actions[0, :, ATTACK:].int().tolist()
    assert available[9] == [1] * 9 + [0, 0, 0]
    assert available[0] == [1] * 12


def test_a_medivac_heals_no_more_agents_than_there_are_actions() -> None:
    ours = {"marine": [Placed(9, 16), Placed(9, 17), Placed(9, 18)], "medivac": [Placed(10, 16)]}
    env = battle(ours, {"marine": [FAR], "medivac": [FAR]})
    assert env.info.n_actions == 8
    assert show(env).avail_actions[0, 3, ATTACK:].tolist() == [True, True]


def test_the_layout_says_energy_where_it_is() -> None:
    layout = build_layout(load_scenario("MMM"), SkirmishOptions())
    assert layout.state[8 * 7 + 1] == "ally_8.cooldown"
    assert layout.state[9 * 7 + 1] == "ally_9.energy"


#                    name: the size SMAC declares with all four flags, the time's entry included
WITH_ALL_FLAGS = {"3m": 66, "8m": 196, "2s3z": 142, "3s5z": 244, "MMM2": 356}
WITH_ALL_FLAGS |= {"27m_vs_30m": 1239, "2c_vs_64zg": 420}


@pytest.mark.parametrize("name", WITH_ALL_FLAGS)
def test_sizes_with_all_that_can_be_observed(name: str) -> None:
    flags = SkirmishOptions(obs_last_action=True, obs_pathing_grid=True, obs_terrain_height=True)
    layout = build_layout(load_scenario(name), flags)
    assert len(layout.obs) == WITH_ALL_FLAGS[name] - 1
    assert len(set(layout.obs)) == len(layout.obs)


VOID, LOW, HIGH = 128 / 255, 138 / 255, 140 / 255


@pytest.mark.parametrize(
    ("at", "pathing", "heights"),
    [
        #                         4 north, south, east, west; 2 north-east, south-west, ...
        ((16, 16), [1, 1, 1, 1, 1, 1, 1, 1], [LOW] * 9),
        # Cell (0, 8): what lies off the map counts as 1; rows 7 to 24 are ground.
        ((0.5, 8.5), [1, 0, 1, 1, 1, 1, 0, 1], [LOW, VOID, LOW, 1, LOW, 1, VOID, 1, LOW]),
        ((31.75, 24.25), [0, 1, 1, 1, 1, 1, 1, 0], [VOID, LOW, 1, LOW, 1, LOW, 1, VOID, LOW]),
        ((16, 30.5), [1, 0, 0, 0, 1, 0, 0, 1], [1, *[VOID] * 3, 1, *[VOID] * 2, 1, VOID]),
    ],
)
def test_the_ground_around(
    at: tuple[float, float], pathing: list[float], heights: list[float]
) -> None:
    env = SkirmishEnv("3m", 1, obs_pathing_grid=True, obs_terrain_height=True)
    obs = put(env, 0, Placed(*at)).obs[0, 0]
    assert obs[4:12].tolist() == pathing
    assert np.array_equal(obs[12:21].numpy(), f32(*heights))
    assert np.array_equal(obs[21:].numpy(), put(SkirmishEnv("3m", 1), 0, Placed(*at)).obs[0, 0, 4:])
    only_heights = SkirmishEnv("3m", 1, obs_terrain_height=True)
    assert put(only_heights, 0, Placed(*at)).obs[0, 0, 4:13].tolist() == obs[12:21].tolist()
    assert not alter(env, 0, health=0).obs[0, 0].any()


def test_the_heights_of_ramps_and_high_ground() -> None:
    field = scenario(["marine"], ["marine"], terrain="plateau")
    env = SkirmishEnv(field, 1, obs_terrain_height=True)
    obs = put(env, 0, Placed(5.5, 15.5)).obs[0, 0]  # halfway up the ramp, where z is 8.75
    around = [LOW, LOW, HIGH, LOW, HIGH, LOW, HIGH, LOW, 139 / 255]
    assert np.array_equal(obs[4:13].numpy(), f32(*around))


def test_the_cells_around_lie_as_far_as_two_moves() -> None:
    env = SkirmishEnv("3m", 1, obs_pathing_grid=True, move_amount=4)
    obs = put(env, 0, Placed(16.5, 12.5)).obs[0, 0]
    # (16, 20), (16, 4), (24, 12), (8, 12), (20, 16), (12, 8), (20, 8), (12, 16)
    assert obs[4:12].tolist() == [1, 0, 1, 1, 1, 1, 1, 1]


def test_observations_can_stand_for_the_state() -> None:
    env = SkirmishEnv("2s3z", 2, obs_instead_of_state=True)
    assert env.info.state_dim == 5 * 80
    shown = act(env, STOP, STOP, STOP, STOP, STOP).observation
    assert torch.equal(shown.state, shown.obs.reshape(2, 400))
    assert env.features.layout.state[80] == "agent_1.can_move_north"
    assert env.info.layout_sha256 == SkirmishEnv("2s3z", 1).info.layout_sha256
