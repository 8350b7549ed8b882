"""`--env smac` with a fake SMAC whose battles are known (see `fake_smac`): what comes through, and
what does not when games crash, hang or talk nonsense."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.envs import faults
from tests.training.envs.games import MARK, all_gone, lay_out, marked, new_mark, play_with_fake_smac
from tests.training.envs.smac_faults import made_up_smac, problems_of_made_up
from tests.training.envs.smac_faults import run as run_with_faults
from tests.training.runs import small_config, training
from training import export
from training.config import with_values
from training.envs import GameError, check_task, make_env
from training.envs.base import UnavailableActionError
from training.envs.skirmish.scenario import map_names
from training.envs.smac.env import MOST_FAILURES, SmacEnv, game_seed
from training.envs.smac.installation import MAPS
from training.evaluate import Command, run
from training.exploration import LinearSchedule
from training.networks.agent import DRQN
from training.policies import open_policy
from training.rollout import AgentPolicy, Rollout, play_battles
from training.train import main as train
from training.types import EnvInfo, Episode, Transition
from training.whole_battles import SamplingPolicy, WholeBattles

STOP = torch.ones(2, 3, dtype=torch.int64)
ONLY_1 = torch.tensor([False, True])


@pytest.fixture
def fault_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return play_with_fake_smac(monkeypatch, tmp_path)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    mark = new_mark()
    monkeypatch.setenv(MARK, mark)
    return mark


@pytest.fixture
def env(fault_folder: Path) -> Iterator[SmacEnv]:
    env = SmacEnv("3m", 2, seed=4, step_seconds=10)
    yield env
    env.close()


def length(seed: int, battle: int) -> int:
    """The fake's rule."""
    return 60 if battle % 3 == 2 else 3 + (seed + battle) % 5


def lost(transition: Transition) -> list[bool]:
    assert transition.lost is not None
    flags: list[bool] = transition.lost.tolist()
    return flags


# -------------------------------------------------------------------- playing


def test_battles_come_through_as_smac_plays_them(env: SmacEnv) -> None:
    shown = env.reset()
    seeds = [game_seed(4, slot, 1) for slot in (0, 1)]
    assert env.info.game_version == "4.10.0.75689 (base 75689)"
    assert shown.obs.shape == (2, 3, 30)
    assert shown.state[:, 0].tolist() == [seed % 1000 for seed in seeds]
    assert shown.avail_actions[0, 0].tolist() == [False] + [True] * 8
    lengths = [length(seed, 0) for seed in seeds]
    for step in range(1, max(lengths) + 1):
        after = env.step(STOP)
        playing = [step <= n for n in lengths]
        assert after.reward.tolist() == [float(p) for p in playing]
        assert after.terminated.tolist() == [step >= n for n in lengths]
        assert after.battle_won.tolist() == [step == n for n in lengths]
        assert not after.truncated.any()
        assert not any(lost(after))
        assert after.observation.obs[:, 0, 0].tolist() == [min(step, n) for n in lengths]
    assert after.dead_enemies.tolist() == [3, 3]


def test_a_battle_that_runs_out_of_time_is_truncated(env: SmacEnv) -> None:
    for _ in range(3):  # battle 2 of each game is one; a battle may be left before it is over
        env.reset()
    after = [env.step(STOP) for _ in range(60)][-1]
    assert after.truncated.tolist() == [True, True]
    assert not after.terminated.any()
    assert not after.battle_won.any()


def test_a_battle_left_early_does_not_start_a_second_game(
    monkeypatch: pytest.MonkeyPatch, mark: str, env: SmacEnv
) -> None:
    processes = set(marked(mark))
    assert not processes
    first, second = env.reset().state, env.reset().state
    assert first[:, 3].tolist() == second[:, 3].tolist()
    assert second[:, 1].tolist() == [1, 1]
    assert len(marked(mark)) == 4  # two workers and two games


def test_only_the_named_slots_are_reset(env: SmacEnv) -> None:
    env.reset()
    env.step(STOP)
    shown = env.reset(ONLY_1, torch.tensor([50, 60]))
    assert shown.obs[:, 0, 0].tolist() == [1, 0]


def test_an_unavailable_action_is_named_and_nothing_moves(env: SmacEnv) -> None:
    env.reset(None, torch.tensor([7, 8]))
    wrong = STOP.clone()
    wrong[1, 2] = 0
    with pytest.raises(UnavailableActionError, match="battle 8: agent 2 was given action 0"):
        env.step(wrong)
    assert env.step(STOP).observation.obs[:, 0, 0].tolist() == [1, 1]
    with pytest.raises(UnavailableActionError, match="action 9"):
        env.step(STOP + 8)
    with pytest.raises(ValueError, match="expected"):
        env.step(STOP[:1])


def test_a_step_needs_a_battle(env: SmacEnv) -> None:
    with pytest.raises(RuntimeError, match="before the first reset"):
        env.step(STOP)


def test_an_environment_that_goes_on_has_new_games(env: SmacEnv) -> None:
    first = env.reset(None, torch.tensor([0, 1])).state[:, 0]
    env.load_state_dict({"next_battle": 7})
    later = env.reset().state[:, 0]
    assert first.tolist() == [game_seed(4, battle, 1) % 1000 for battle in (0, 1)]
    assert later.tolist() == [game_seed(4, battle, 2) % 1000 for battle in (7, 8)]


def test_no_two_games_have_the_same_seed() -> None:
    seeds = [game_seed(s, b, n) for s in (1, 2) for b in (0, 1, 2**40) for n in (1, 2)]
    assert len(set(seeds)) == 12
    assert all(0 <= seed < 2**31 for seed in seeds)


# ---------------------------------------------------------------- broken off


@pytest.mark.parametrize("fault", ["crash", "hang", "garbage"])
def test_a_game_that_breaks_off_costs_its_battle_alone(
    fault_folder: Path, mark: str, fault: str
) -> None:
    env = SmacEnv("3m", 2, seed=4, step_seconds=1.5)
    before = env.reset()
    processes = marked(mark)
    faults.put(fault_folder, **{fault: 1})
    after = env.step(STOP)
    assert sorted(lost(after)) == [False, True]
    gone = lost(after).index(True)
    steps = [0 if slot == gone else 1 for slot in (0, 1)]
    for _ in range(2):  # a battle that is lost stands still
        assert after.observation.obs[:, 0, 0].tolist() == steps
        assert after.reward[gone] == 0
        assert not (after.terminated | after.truncated).any()
        assert lost(after)[gone]
        steps[1 - gone] += 1
        after = env.step(STOP)
    assert len(marked(mark)) == len(processes) - 2  # its worker and its game
    shown = env.reset(torch.arange(2) == gone)
    assert shown.state[gone, 0] == game_seed(4, 2, 2) % 1000  # battle 2, its slot's second game
    assert shown.state[1 - gone, 3] == before.state[1 - gone, 3]
    assert not any(lost(env.step(STOP)))
    assert env.restarts == 1
    env.close()
    assert all_gone(mark)


def test_a_worker_that_is_killed_takes_its_game_along(env: SmacEnv, mark: str) -> None:
    worker = int(env.reset().state[0, 3])
    os.kill(worker, signal.SIGKILL)
    assert lost(env.step(STOP)) == [True, False]
    assert len(marked(mark)) == 2


def test_a_game_that_breaks_off_between_battles_is_begun_again_at_once(
    env: SmacEnv, fault_folder: Path
) -> None:
    env.reset()
    faults.put(fault_folder, reset=2, launch=1)
    shown = env.reset()
    assert shown.obs[:, 0, 0].tolist() == [0, 0]
    assert env.restarts == 3
    assert not any(lost(env.step(STOP)))


def test_a_game_that_never_starts_is_an_error_with_its_last_words(
    env: SmacEnv, fault_folder: Path
) -> None:
    faults.put(fault_folder, launch=2 * MOST_FAILURES)
    with pytest.raises(GameError, match="5 games in a row") as error:
        env.reset()
    assert "RuntimeError: the game does not start" in str(error.value)
    assert "the game is up" in str(error.value)


def test_games_that_break_off_with_battles_between_them_are_no_error(
    env: SmacEnv, fault_folder: Path
) -> None:
    for _ in range(MOST_FAILURES):
        env.reset()
        faults.put(fault_folder, crash=2)
        assert lost(env.step(STOP)) == [True, True]
        env.reset()
        while not (after := env.step(STOP)).terminated.all():
            assert not any(lost(after))
    assert env.restarts == 2 * MOST_FAILURES


# ------------------------------------------------ learning, tests, evaluation


def agent_for(info: EnvInfo) -> DRQN:
    return DRQN(info.obs_dim, info.n_actions, info.n_agents, hidden_dim=4)


def test_no_part_of_a_lost_battle_reaches_the_replay(
    monkeypatch: pytest.MonkeyPatch, fault_folder: Path
) -> None:
    monkeypatch.setenv(faults.CHANCE, "0.05")
    faults.put(fault_folder, crash=3, hang=1, garbage=1, reset=1)
    env = SmacEnv("3m", 4, step_seconds=2)
    rollout = Rollout(env, AgentPolicy(agent_for(env.info), 4, LinearSchedule(1, 1, 1)))
    episodes: list[Episode] = []
    while list(fault_folder.iterdir()) or len(episodes) < 20:
        episodes += rollout.play(40)
    assert not [problem for episode in episodes for problem in problems_of_made_up(episode)]
    assert env.restarts == 6
    assert len({episode.battle_id for episode in episodes}) == len(episodes)
    env.close()


def test_lost_battles_of_a_list_are_played_again(env: SmacEnv, fault_folder: Path) -> None:
    faults.put(fault_folder, crash=3)
    policy = AgentPolicy(agent_for(env.info), 2)
    records = play_battles(env, policy, range(10, 15))
    assert [record.battle_id for record in records] == [10, 11, 12, 13, 14]
    assert [record.episode_return for record in records] == [r.length for r in records]
    assert all(record.length >= 3 for record in records)
    assert env.restarts == 3


def test_a_batch_of_whole_battles_holds_none_that_was_lost(
    env: SmacEnv, fault_folder: Path
) -> None:
    faults.put(fault_folder, crash=2, garbage=1)
    policy = SamplingPolicy(agent_for(env.info), 2, seed=0)
    episodes = WholeBattles(env, policy, 4, LinearSchedule(1, 1, 1)).play(1)
    assert [episode.battle_id for episode in episodes] == [0, 1, 2, 3]
    assert not [problem for episode in episodes for problem in problems_of_made_up(episode)]


def test_an_evaluation_names_game_and_restarts(fault_folder: Path) -> None:
    faults.put(fault_folder, crash=1)
    result = run(Command(policy="random", map_name="3m", env="smac", episodes=3, parallel=2))
    assert result.game_version == "4.10.0.75689 (base 75689)"
    assert result.game_restarts == 1
    assert result.episodes == 3
    assert result.dead_allies_mean == 1.0


def config_of_a_run(**values: Any) -> Any:
    small = {
        "env": "smac",
        "map_name": "3m",
        "env_args": {"step_seconds": 2},
        "batch_size_run": 4,
        "test_interval": 10_000,
        "test_nepisode": 4,
        "t_max": 300,
        "log_interval": 50,
    }
    return with_values(small_config(), small | values, "test")


def test_training_goes_on_with_no_part_of_a_battle_and_leaves_no_process(tmp_path: Path) -> None:
    # `python -m tests.training.envs.smac_faults` is the long form.
    counts = {"crash": 3, "hang": 1, "garbage": 1}
    run_with_faults(tmp_path, made_up_smac(tmp_path), problems_of_made_up, 0.05, 2.0, counts)


def test_a_run_that_goes_on_fills_its_replay_anew(
    tmp_path: Path, fault_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with training(config_of_a_run(), folder) as trainer:
        trainer.run()
        before = trainer.counts
        assert len(trainer.replay) > 8
    longer = config_of_a_run(t_max=600)
    with training(longer, folder) as trainer:
        assert len(trainer.replay) == 0
        assert trainer.counts.gradient_steps == before.gradient_steps
        trainer.run()
        held = len(trainer.replay)
        # As at a run's beginning: nothing is learned before a batch of 8 is there, then a step for
        # every four battles.
        new_steps = trainer.counts.gradient_steps - before.gradient_steps
        assert 0 < new_steps <= math.ceil((held - 7) / 4)
        assert trainer.counts.episodes == before.episodes + held
    assert "the replay begins empty" in capsys.readouterr().err


def test_an_exported_model_names_the_game(tmp_path: Path, fault_folder: Path) -> None:
    with training(config_of_a_run(t_max=100), tmp_path / "run") as trainer:
        trainer.run()
    command = export.Command(str(tmp_path / "run"), "fake", models=tmp_path, episodes=2)
    manifest = json.loads((export.main(command) / "manifest.json").read_text())
    assert manifest["environment"]["name"] == "smac"
    assert manifest["training"]["software"]["StarCraft II"] == "4.10.0.75689 (base 75689)"
    assert manifest["training"]["win_rate"] == 1.0  # each game's first battle is won
    skirmish = make_env("skirmish", "3m", 1)
    with open_policy(str(tmp_path / "fake" / "1"), skirmish) as policy:
        assert len(play_battles(skirmish, policy, [0])) == 1


def test_a_trainer_that_is_killed_leaves_no_process(
    tmp_path: Path, fault_folder: Path, mark: str
) -> None:
    command = [sys.executable, "-m", "training.train", "--env", "smac", "--map", "3m"]
    command += ["--parallel", "2", "--runs-dir", str(tmp_path), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as trainer:
        deadline = time.monotonic() + 60
        while len(marked(mark)) < 6:  # trainer and actor, two workers, two games
            assert trainer.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        trainer.kill()
    assert all_gone(mark)


# --------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("map_name", "env_args"),
    [("3m", {}), ("3s5z", {"obs_last_action": True}), ("MMM2", {"obs_all_health": False})],
)
def test_an_agent_of_skirmish_fits_and_the_other_way_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, map_name: str, env_args: dict[str, Any]
) -> None:
    monkeypatch.setenv("SC2PATH", str(lay_out(tmp_path / "game", map_name)))
    smac = make_env("smac", map_name, 2, difficulty="7", **env_args)
    skirmish = make_env("skirmish", map_name, 2, **env_args)
    assert dataclasses.replace(smac.info, name="skirmish") == skirmish.info


def test_smacs_maps_are_all_but_our_own() -> None:
    assert len(MAPS) == 23
    assert set(map_names()) - set(MAPS) == {"5m"}


@pytest.mark.parametrize(
    ("map_name", "env_args", "error"),
    [
        ("3s5x", {}, "SMAC has no map '3s5x'; did you mean '3s5z'?"),
        ("5m", {}, "SMAC has no map '5m'"),
        ("3m", {"reward_spars": True}, "did you mean 'reward_sparse'?"),
        ("3m", {"enemy_order": "sorted"}, "smac has no option 'enemy_order'"),
        ("3m", {"step_mul": "8"}, "step_mul must be a int"),
        ("3m", {"difficulty": 11}, "difficulty must be one of"),
        ("3m", {"game_version": 4.1}, "game_version must be a str"),
        ("3m", {"step_seconds": 0}, "step_seconds must be a positive number"),
        ("3m", {"obs_timestep_number": True}, "obs_timestep_number is not supported"),
    ],
)
def test_wrong_options_are_named(
    fault_folder: Path, map_name: str, env_args: dict[str, Any], error: str
) -> None:
    for refuse in (check_task, lambda *given: make_env(given[0], given[1], 1, **given[2])):
        with pytest.raises(ValueError, match=re.escape(error)):
            refuse("smac", map_name, env_args)


def test_what_is_not_installed_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    command = ["--env", "smac", "--map", "3m", "--runs-dir", str(tmp_path / "runs")]
    assert train(command) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: no StarCraft II in {tmp_path}/nowhere: set SC2PATH to ")
    assert not (tmp_path / "runs").exists()
    lay_out(tmp_path / "nowhere", "8m")
    with pytest.raises(GameError, match=r"3m missing in .*: copy SMAC's maps there"):
        make_env("smac", "3m", 1)
    monkeypatch.setenv("UNMIX_SMAC_PYTHON", "/no/python")
    with pytest.raises(GameError, match="UNMIX_SMAC_PYTHON=/no/python is no program"):
        make_env("smac", "8m", 1)


def test_a_python_without_smac_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch, env: SmacEnv
) -> None:
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(GameError, match=r"has no SMAC: install it as docs/environments\.md"):
        env.reset()
    assert env.restarts == 0


def test_a_seed_is_the_runs_to_give(fault_folder: Path) -> None:
    with pytest.raises(ValueError, match="--seed gives each game its own"):
        check_task("smac", "3m", {"seed": 1})


def test_a_command_lines_difficulty_is_text_for_smac(fault_folder: Path) -> None:
    assert SmacEnv("3m", 1, difficulty=7).task.arguments["difficulty"] == "7"
