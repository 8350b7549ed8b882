"""The loop: it repeats to the bit, learns as much per battle however many run, and goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.training.runs import metrics, run, small_config, training, weights_sha256
from training.actor import ActorError
from training.algorithms.learner import NonFiniteLossError
from training.checkpoint import load_agent, load_last
from training.config import load_preset, with_values
from training.envs import make_env, two_step
from training.networks.agent import DRQN
from training.rollout import TEST_BATTLES, AgentPolicy, play_battles
from training.run_folder import RunFolder


def after(calls: int) -> Callable[[], bool]:
    """Turns true at the call after so many."""
    remaining = iter(range(calls))
    return lambda: next(remaining, None) is None


def test_same_seed_same_run_and_another_seed_another_run(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(small_config(seed=seed), tmp_path / name)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b") != metrics(tmp_path / "c")
    a, b, c = (weights_sha256(tmp_path / name) for name in "abc")
    assert a == b != c


def test_a_playing_process_changes_no_result(tmp_path: Path) -> None:
    run(small_config(), tmp_path / "local")
    run(small_config(), tmp_path / "process", process=True)
    assert metrics(tmp_path / "local") == metrics(tmp_path / "process")
    assert weights_sha256(tmp_path / "local") == weights_sha256(tmp_path / "process")


def test_rows_have_pymarl_names(tmp_path: Path) -> None:
    run(small_config(), tmp_path)
    reports = [row for row in metrics(tmp_path) if "episode" in row]
    tests = [row for row in metrics(tmp_path) if "test_return_mean" in row]
    battles = {"return_mean", "return_std", "battle_won_mean", "ep_length_mean"}
    battles |= {"dead_allies_mean", "dead_enemies_mean"}
    learning = {"loss", "grad_norm", "td_error_abs", "q_taken_mean", "target_mean"}
    counts = {"t_env", "episode", "gradient_steps", "epsilon", "buffer_episodes"}
    assert set(reports[-1]) == counts | battles | learning
    test_names = {f"test_{name}" for name in battles | {"battle_won_ci95"}}
    assert set(tests[0]) - {n for n in tests[0] if n.startswith("confirm_")} == test_names | {
        "t_env"
    }
    # 8 battles x 4 steps a round; reports each 64 steps, tests each 128 and at the end.
    assert [row["t_env"] for row in reports] == [*range(64, 801, 64), 800]
    assert [row["t_env"] for row in tests] == [128, 256, 384, 512, 640, 768, 800]
    assert [row["epsilon"] for row in reports[:2]] == [1 - 0.9 * 64 / 500, 1 - 0.9 * 128 / 500]


@pytest.mark.parametrize("parallel", [1, 4, 16])
def test_gradient_steps_per_episode_do_not_depend_on_battles_in_parallel(
    tmp_path: Path, parallel: int
) -> None:
    config = small_config(batch_size_run=parallel, round_steps=32 // parallel, t_max=320)
    with training(config, tmp_path) as trainer:
        trainer.run()
        # 320 steps are 160 episodes of two; those of the last round, 16, are learned from next.
        assert trainer.counts.episodes == 160
        assert trainer.counts.gradient_steps == trainer.learner.gradient_steps == (144 - 7) // 4


def test_a_longer_run_goes_on_as_if_it_had_never_ended(tmp_path: Path) -> None:
    run(small_config(t_max=800), tmp_path / "whole")
    for t_max in (300, 301, 800):
        run(small_config(t_max=t_max), tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert weights_sha256(tmp_path / "parts") == weights_sha256(tmp_path / "whole")
    parts, whole = (load_agent(tmp_path / name) for name in ("parts", "whole"))
    assert parts.win_rate == whole.win_rate
    assert all(torch.equal(parts.weights[n], whole.weights[n]) for n in whole.weights)


@pytest.mark.parametrize("process", [False, True])
def test_stopped_within_a_round_it_goes_on_from_the_one_before(
    tmp_path: Path, process: bool
) -> None:
    run(small_config(), tmp_path / "whole")
    config = small_config(actor="process" if process else "local")
    assert run(config, tmp_path / "parts", stop=after(40), process=process) == "a signal"
    state = load_last(RunFolder(tmp_path / "parts"))
    assert state is not None
    assert 0 < state["counts"]["env_steps"] < 800
    run(config, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert weights_sha256(tmp_path / "parts") == weights_sha256(tmp_path / "whole")


def test_stopped_before_the_first_round_it_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert run(small_config(), tmp_path, stop=lambda: True) == "a signal"
    assert load_last(RunFolder(tmp_path)) is None


def test_battles_of_the_simulator_go_on_too(tmp_path: Path) -> None:
    values = {"env": "skirmish", "map_name": "3m", "batch_size_run": 8, "round_steps": 8}
    values |= {"t_max": 400, "test_interval": 250, "buffer_size": 8, "confirm_nepisode": 1}
    config = small_config(**values, test_nepisode=1)
    run(config, tmp_path / "whole")
    run(with_values(config, {"t_max": 300}, "test"), tmp_path / "parts")
    state = load_last(RunFolder(tmp_path / "parts"))
    assert state is not None
    assert state["actor"]["test"]["n_steps"] == 8  # a test is under way
    run(config, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert weights_sha256(tmp_path / "parts") == weights_sha256(tmp_path / "whole")


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_step, "PAYOFF_2B", ((math.inf, 1.0), (1.0, 8.0)))
    with pytest.raises(NonFiniteLossError, match="gradient step"):
        run(small_config(), tmp_path)
    agent = load_agent(tmp_path, "last")
    assert all(weight.isfinite().all() for weight in agent.weights.values())
    assert agent.env_steps > 0


def test_what_fails_in_the_playing_process_is_said_in_this_one(tmp_path: Path) -> None:
    config = small_config(env="skirmish", map_name="3n")
    with pytest.raises(ActorError, match="3m"):
        run(config, tmp_path, process=True)


def test_minutes_end_a_run(tmp_path: Path) -> None:
    assert run(small_config(minutes=1e-9), tmp_path) == "1e-09 minutes"


@pytest.mark.parametrize(
    ("algo", "expected"),
    [
        ("iql", 7.0),
        ("vdn", 7.0),
        ("vdn_s", 7.0),
        ("qmix_lin", 7.0),
        ("qmix_ns", 8.0),
        ("qmix", 8.0),
    ],
)
def test_a_hidden_layer_finds_the_best_return_and_sums_the_best_that_adds_up(
    tmp_path: Path, algo: str, expected: float
) -> None:
    config = with_values(load_preset("two_step"), {"algo": algo, "t_max": 900}, "test")
    with training(config, tmp_path) as trainer:
        trainer.run()
    assert metrics(tmp_path)[-1]["test_return_mean"] == expected


def test_a_win_rate_that_is_confirmed_ends_the_run_and_is_the_best(tmp_path: Path) -> None:
    values = {"until_win_rate": 1.0, "confirm_nepisode": 6, "env": "two_step"}
    config = with_values(load_preset("two_step"), values, "test")
    with training(config, tmp_path) as trainer:
        assert trainer.run() == "100.0% of 6 fresh battles won"
        assert trainer.counts.env_steps < config.stop.t_max
    last = [row for row in metrics(tmp_path) if "test_return_mean" in row][-1]
    assert last["test_battle_won_mean"] == last["confirm_battle_won_mean"] == 1.0
    best = load_agent(tmp_path, "best")
    assert (best.win_rate, best.win_rate_episodes) == (1.0, 6)
    assert best.env_steps == last["t_env"]

    env = make_env("two_step", "two_step", 1)
    agent = DRQN(best.info.obs_dim, best.info.n_actions, best.info.n_agents, 32)
    agent.load_state_dict(best.weights)
    assert play_battles(env, AgentPolicy(agent, 1), [TEST_BATTLES])[0].episode_return == 8.0


def test_a_resumed_run_restores_the_best_that_its_checkpoint_knows(tmp_path: Path) -> None:
    run(small_config(t_max=300), tmp_path)
    best = RunFolder(tmp_path).best
    best.unlink(missing_ok=True)
    state = load_last(RunFolder(tmp_path))
    assert state is not None
    with training(small_config(t_max=300), tmp_path) as trainer:
        trainer.metrics.close()
        assert best.is_file() == (state["best"] is not None)


def test_other_software_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(small_config(t_max=64), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9")
        run(small_config(t_max=128), tmp_path)
    assert "changed since the checkpoint: torch" in capsys.readouterr().err
