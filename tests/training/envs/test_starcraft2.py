"""SMAC's own face: its surface, argument for argument, and what it says of a battle.

Expected values are SMAC's (its source at d6aab33, spec §1.1, §2 and §3).
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.envs.battlefield import scenario
from training.envs.skirmish.enemy_order import TYPE_IDS
from training.envs.starcraft2 import NO_EFFECT, MultiAgentEnv, StarCraft2Env
from training.envs.starcraft2_units import Unit

SMAC_ARGUMENTS: dict[str, Any] = {
    "map_name": "8m",
    "step_mul": 8,
    "move_amount": 2,
    "difficulty": "7",
    "game_version": None,
    "seed": None,
    "continuing_episode": False,
    "obs_all_health": True,
    "obs_own_health": True,
    "obs_last_action": False,
    "obs_pathing_grid": False,
    "obs_terrain_height": False,
    "obs_instead_of_state": False,
    "obs_timestep_number": False,
    "state_last_action": True,
    "state_timestep_number": False,
    "reward_sparse": False,
    "reward_only_positive": True,
    "reward_death_value": 10,
    "reward_win": 200,
    "reward_defeat": 0,
    "reward_negative_scale": 0.5,
    "reward_scale": True,
    "reward_scale_rate": 20,
    "replay_dir": "",
    "replay_prefix": "",
    "window_size_x": 1920,
    "window_size_y": 1200,
    "heuristic_ai": False,
    "heuristic_rest": False,
    "debug": False,
}
SMAC_METHODS = """
    reset step get_obs get_obs_agent get_obs_size get_state get_state_size get_state_dict
    get_avail_actions get_avail_agent_actions get_total_actions get_env_info get_stats
    get_unit_types get_unit_type_id get_unit_by_id get_visibility_matrix get_ally_num_attributes
    get_enemy_num_attributes get_obs_enemy_feats_size get_obs_ally_feats_size
    get_obs_own_feats_size get_obs_move_feats_size unit_shoot_range unit_sight_range
    unit_max_cooldown unit_max_shield distance full_restart save_replay render seed close
"""


def test_the_constructor_is_smacs() -> None:
    parameters = list(inspect.signature(StarCraft2Env).parameters.values())
    assert {p.name: p.default for p in parameters[:-1]} == SMAC_ARGUMENTS
    assert [p.name for p in parameters[:-1]] == list(SMAC_ARGUMENTS)
    assert parameters[-1].kind is inspect.Parameter.VAR_KEYWORD  # refused with the nearest name
    assert all(callable(getattr(StarCraft2Env, name)) for name in SMAC_METHODS.split())
    assert MultiAgentEnv is StarCraft2Env


def test_all_of_pymarls_settings_are_taken() -> None:
    """As its sc2.yaml gives them, with a value of their own for those without effect."""
    other: dict[str, Any] = {"debug": True, "window_size_x": 1, "window_size_y": 2}
    other |= {"difficulty": "A", "game_version": "4.10"}
    assert other.keys() == NO_EFFECT
    one = StarCraft2Env(**{**SMAC_ARGUMENTS, "map_name": "3m", "seed": 4})
    two = StarCraft2Env(**{**SMAC_ARGUMENTS, "map_name": "3m", "seed": 4, **other})
    assert np.array_equal(one.reset()[1], two.reset()[1])
    assert two.difficulty == "A"  # type: ignore[attr-defined]  # set from the arguments
    assert two.window_size == (1, 2)
    assert StarCraft2Env("3m", step_mul=None).step_mul == 8  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("map_name", "info", "sizes", "max_reward"),
    [
        ("3m", (48, 30, 9, 3, 60), ((3, 5), (2, 5), 1, 4), 365),
        ("5m_vs_6m", (98, 55, 12, 5, 70), ((6, 5), (4, 5), 1, 4), 530),
        ("2s3z", (120, 80, 11, 5, 120), ((5, 8), (4, 8), 4, 4), 1020),
    ],
)
def test_sizes(map_name: str, info: tuple[int, ...], sizes: Any, max_reward: float) -> None:
    env = StarCraft2Env(map_name)
    told = env.get_env_info()
    names = ("state_shape", "obs_shape", "n_actions", "n_agents", "episode_limit")
    assert tuple(told[name] for name in names) == info
    assert list(told) == [*names, "agent_features", "enemy_features"]
    assert (
        env.get_obs_enemy_feats_size(),
        env.get_obs_ally_feats_size(),
        env.get_obs_own_feats_size(),
        env.get_obs_move_feats_size(),
    ) == sizes
    assert env.max_reward == max_reward
    obs, state = env.reset()
    assert [row.shape for row in obs] == [(info[1],)] * info[3]
    assert state.shape == (info[0],)
    assert {row.dtype for row in (*obs, state)} == {np.dtype(np.float32)}
    assert all(type(a) is int for row in env.get_avail_actions() for a in row)
    assert [env.get_avail_agent_actions(i) for i in range(info[3])] == env.get_avail_actions()
    assert env.get_total_actions() == info[2]


def test_attribute_names() -> None:
    told = StarCraft2Env("2s3z").get_env_info()
    kinds = ["type_0", "type_1"]
    ally = ["health", "energy/cooldown", "rel_x", "rel_y", "shield", *kinds]
    assert told["agent_features"] == ally
    assert told["enemy_features"] == ["health", "rel_x", "rel_y", "shield", *kinds]
    told = StarCraft2Env("3m").get_env_info()
    assert told["agent_features"] == ["health", "energy/cooldown", "rel_x", "rel_y"]
    assert told["enemy_features"] == ["health", "rel_x", "rel_y"]


def test_the_state_in_parts() -> None:
    env = StarCraft2Env("2s3z", state_timestep_number=True)
    env.reset()
    env.step([1, 2, 1, 1, 1])
    parts = env.get_state_dict()
    shapes = {name: np.shape(part) for name, part in parts.items()}
    assert shapes == {"allies": (5, 7), "enemies": (5, 6), "last_action": (5, 11), "timestep": ()}
    assert np.array_equal(parts["last_action"], env.last_action)
    assert parts["last_action"].argmax(1).tolist() == [1, 2, 1, 1, 1]
    assert parts["timestep"] == pytest.approx(1 / 120)
    whole = [np.ravel(part) for part in parts.values()]
    assert np.array_equal(np.concatenate(whole), env.get_state())


@pytest.mark.parametrize("form", [list, np.array, torch.tensor, tuple])
def test_actions_come_as_lists_arrays_or_tensors(form: Any) -> None:
    env = StarCraft2Env("3m", seed=2)
    env.reset()
    reward, terminated, info = env.step(form([1, 2, 4]))
    assert (type(reward), terminated) == (float, False)
    assert info == {"battle_won": False, "dead_allies": 0, "dead_enemies": 0}


def test_each_reset_plays_the_next_battle_of_the_seed() -> None:
    env, other = StarCraft2Env("2m_vs_1z", seed=9), StarCraft2Env("2m_vs_1z", seed=9)
    states = [env.reset()[1] for _ in range(3)]
    assert not np.array_equal(states[0], states[1])
    for state in states:
        assert np.array_equal(other.reset()[1], state)
    assert env.seed() == 9
    assert env.seed(10) == 10
    assert np.array_equal(env.reset()[1], StarCraft2Env("2m_vs_1z", seed=10).reset()[1])
    drawn = StarCraft2Env("3m")
    assert np.array_equal(drawn.reset()[1], StarCraft2Env("3m", seed=drawn.seed()).reset()[1])


@pytest.mark.parametrize("continuing", [False, True])
def test_a_time_out_terminates_and_is_told_only_if_episodes_continue(continuing: bool) -> None:
    env = StarCraft2Env(
        scenario(["marine"], ["marine"], limit=2), continuing_episode=continuing, seed=0
    )
    nothing = {"battle_won": False, "dead_allies": 0, "dead_enemies": 0}
    env.reset()
    assert env.step([1]) == (0.0, False, nothing)
    assert env.step([1]) == (0.0, True, nothing | ({"episode_limit": True} if continuing else {}))
    assert env.get_stats()["battles_draw"] == env.get_stats()["timeouts"] == 1


def test_stats_count_battles() -> None:
    env = StarCraft2Env(scenario(["stalker"] * 9, ["marine"], to=(9, 16)), heuristic_ai=True)
    assert env.get_stats()["win_rate"] == 0
    for _ in range(2):
        env.reset()
        while not env.step([1] * 9)[1]:
            pass
    env.reset()
    assert env.get_stats() == {
        "battles_won": 2,
        "battles_game": 2,
        "battles_draw": 0,
        "win_rate": 1.0,
        "timeouts": 0,
        "restarts": 0,
    }


def test_units_are_objects_with_the_games_names() -> None:
    env = StarCraft2Env("2s3z", seed=1)
    env.reset()
    assert list(env.agents) == list(env.enemies) == [0, 1, 2, 3, 4]
    stalker, zealot = env.get_unit_by_id(0), env.agents[4]
    assert (stalker.health, stalker.health_max, stalker.shield, stalker.shield_max) == (80,) * 4
    assert (zealot.health, zealot.shield) == (100, 50)
    assert (stalker.owner, env.enemies[0].owner) == (1, 2)
    assert (env.unit_max_cooldown(stalker), env.unit_max_cooldown(zealot)) == (35, 22)
    assert env.unit_max_shield(zealot) == 50
    # Each side's one-hot has its own order (spec §2.5).
    assert [env.get_unit_type_id(u, True) for u in env.agents.values()] == [0, 0, 1, 1, 1]
    enemies = list(env.enemies.values())
    assert {u.unit_type for u in enemies} == {TYPE_IDS["stalker"], TYPE_IDS["zealot"]}
    assert (env.stalker_id, env.zealot_id) == (stalker.unit_type, zealot.unit_type)  # type: ignore[attr-defined]
    assert env.marine_id == 0  # type: ignore[attr-defined]
    by_type = {TYPE_IDS["zealot"]: 0, TYPE_IDS["stalker"]: 1}
    assert [env.get_unit_type_id(u, False) for u in enemies] == [
        by_type[u.unit_type] for u in enemies
    ]
    assert env.get_unit_types() == [u.unit_type for u in env.agents.values()]
    state = env.get_state_dict()["allies"]
    for i, unit in env.agents.items():
        assert state[i, 2:4] == pytest.approx([(unit.pos.x - 16) / 32, (unit.pos.y - 16) / 32])


def test_who_sees_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three marines on a line 8 apart, the third dead; enemies 5 and 9 from the first."""
    env = StarCraft2Env("3m")

    def unit(x: float, health: float = 45) -> Unit:
        example = env.agents[0]
        return Unit(**{**vars(example), "pos": type(example.pos)(x, 16.0), "health": health})

    allies = {0: unit(2), 1: unit(10), 2: unit(18, health=0)}
    enemies = {0: unit(7), 1: unit(11), 2: unit(8, health=0)}
    monkeypatch.setattr(StarCraft2Env, "agents", allies)
    monkeypatch.setattr(StarCraft2Env, "enemies", enemies)
    expected = [[0, 1, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert env.get_visibility_matrix().astype(int).tolist() == expected


def test_views_are_copies() -> None:
    env = StarCraft2Env("3m")
    env.reset()
    before = env.get_obs()[0].copy()
    env.get_obs()[0][:] = 7
    env.get_state()[:] = 7
    assert np.array_equal(env.get_obs_agent(0), before)
    assert env.get_state().max() < 7


def test_a_replay_shows_the_battle_that_was_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = StarCraft2Env("3m", seed=4, replay_dir=str(tmp_path), replay_prefix="mine")
    with pytest.raises(RuntimeError, match="no battle has begun"):
        env.save_replay()
    env.reset()
    env.reset()
    seen = []
    for _ in range(3):
        env.step([2, 4, 1])
        seen.append([round(unit.pos.x, 2) for unit in env.agents.values()])
    env.seed(9)  # of the battles to come
    path = env.save_replay()
    assert path == tmp_path / "mine_4_1.html"
    assert capsys.readouterr().out == f"Replay saved at: {path}\n"
    page = path.read_text()
    data = json.JSONDecoder().raw_decode(page[page.index('{"header"') :])[0]
    assert (data["header"]["seed"], data["header"]["battle"]) == (4, 1)
    assert [frame["a"] for frame in data["frames"]] == [[2, 4, 1]] * 3 + [None]
    assert [[round(x, 2) for x in frame["x"][:3]] for frame in data["frames"][1:]] == seen


def test_what_needs_the_game_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    env = StarCraft2Env("3m")
    env.reset()
    with pytest.raises(ValueError, match="no render mode 'rgb_array'"):
        env.render("rgb_array")
    env.render()
    picture = env.render("ansi")
    assert picture is not None
    assert capsys.readouterr().out == picture + "\n"
    assert "agent 0: 45 at (9.00, 15.31)" in picture
    env.full_restart()
    env.close()
