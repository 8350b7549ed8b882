"""The PettingZoo face, by PettingZoo's own tests and where they are silent."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pettingzoo
import pytest
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test

from tests.training.envs.battlefield import scenario
from training.envs import parallel
from training.envs.parallel import parallel_env


@pytest.mark.parametrize("map_name", ["3m", "2s3z"])
def test_pettingzoos_parallel_api_test(map_name: str) -> None:
    parallel_api_test(parallel_env(map_name), num_cycles=1000)


def test_pettingzoos_parallel_seed_test() -> None:
    parallel_seed_test(lambda: parallel_env("3m"))


def test_pettingzoos_render_test(capsys: pytest.CaptureFixture[str]) -> None:
    """It steps agents in turn, and so takes the AEC form."""
    render_test(lambda render_mode: parallel.env(map_name="3m", render_mode=render_mode))
    assert "agent 0: 45 at" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Observation:UserWarning")  # of dicts, and of the dead's zeros
def test_pettingzoos_api_test_with_agents_in_turn() -> None:
    api_test(parallel.env(map_name="3m"), num_cycles=200)


def test_it_is_registered() -> None:
    env = pettingzoo.make("parallel", parallel.ENV_ID, map_name="3m", seed=3)
    assert isinstance(env, parallel.SkirmishParallelEnv)
    assert env.metadata["name"] == "skirmish_v0"
    turns = pettingzoo.make("aec", parallel.ENV_ID, map_name="3m")
    assert turns.possible_agents == env.possible_agents == ["marine_0", "marine_1", "marine_2"]


def test_agents_are_named_by_type() -> None:
    names = parallel_env("2s3z").possible_agents
    assert names == ["stalker_0", "stalker_1", "zealot_0", "zealot_1", "zealot_2"]


def test_sampling_obeys_the_rules_with_or_without_a_mask() -> None:
    env = parallel_env("3m")
    shown, _ = env.reset(seed=1)
    for agent in env.agents:
        mask = shown[agent]["action_mask"]
        assert mask.dtype == np.int8
        assert mask.tolist() == [0, 1, 1, 1, 1, 1, 0, 0, 0]  # open ground, the enemies far away
        space = env.action_space(agent)
        space.seed(0)
        assert {int(space.sample(mask)) for _ in range(99)} == {1, 2, 3, 4, 5}
        assert {int(space.sample()) for _ in range(99)} == {1, 2, 3, 4, 5}
        certain = np.eye(9)[6]
        assert space.sample(probability=certain) == 6
        assert space.contains(np.int64(8))


def test_all_agents_stay_until_the_battle_ends_and_the_dead_do_nothing() -> None:
    env = parallel_env(scenario(["marine"] * 5, ["stalker"] * 4, to=(9, 16)), seed=2)
    env.reset()
    had_dead = False
    while True:
        actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        shown, rewards, terminations, truncations, infos = env.step(actions)
        assert list(shown) == env.possible_agents
        if not env.agents:
            break
        assert env.agents == env.possible_agents
        dead = [agent for agent in env.agents if shown[agent]["action_mask"][0]]
        for agent in dead:
            had_dead = True
            assert shown[agent]["action_mask"].sum() == 1
            assert not shown[agent]["observation"].any()
        assert infos["marine_0"]["dead_allies"] == len(dead)
    assert had_dead
    assert len(set(rewards.values())) == 1
    assert set(terminations.values()) == {True}
    assert set(truncations.values()) == {False}
    assert infos["marine_1"]["dead_allies"] == 5


def test_a_time_out_is_a_truncation_whatever_smacs_option_says() -> None:
    for continuing in (False, True):
        field = scenario(["marine"], ["marine"], limit=1)
        env = parallel_env(field, continuing_episode=continuing)
        env.reset()
        _, _, terminations, truncations, _ = env.step({"marine_0": 1})
        assert (terminations, truncations) == ({"marine_0": False}, {"marine_0": True})
        assert env.agents == []


def test_seeds_begin_at_battle_0_and_later_resets_go_on() -> None:
    def states(env: Any, *seeds: int | None) -> list[bytes]:
        return [(env.reset(seed=seed), env.state().tobytes())[1] for seed in seeds]

    # The one map where a battle's first observation depends on its draws.
    first, second, again = states(parallel_env("2m_vs_1z"), 5, None, 5)
    assert first == again
    assert first != second
    assert states(parallel_env("2m_vs_1z", seed=5), None, None) == [first, second]


def test_copies_play_on() -> None:
    env = parallel_env("3m", seed=1)
    env.reset()
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        actions = dict.fromkeys(env.agents, 3)
        other.step(actions)
    env.step(actions)
    assert np.array_equal(env.state(), other.state())


def test_render_modes() -> None:
    with pytest.raises(ValueError, match="no render mode 'rgb_array'; there are human, ansi"):
        parallel_env("3m", render_mode="rgb_array")
    with pytest.raises(ValueError, match="nothing to render"):
        parallel_env("3m").render()


def test_without_pettingzoo_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['pettingzoo'] = None; import training.envs.parallel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: training.envs.parallel needs PettingZoo; run: pip install 'unmix[pettingzoo]'"
    )
    assert "During handling" not in done.stderr
