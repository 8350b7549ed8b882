"""What VDN and QMIX learn of the QMIX paper's game, and the command that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.algorithms.q_learner import QLearner
from training.config import TrainConfig, with_values
from training.envs.two_step import TwoStepEnv
from training.two_step import Command, Summary, run
from training.two_step_study import (
    SETTINGS,
    joint_values,
    play_at_random,
    spell,
    study,
    true_tables,
    true_values,
)

# By hand: 2B's table [[0, 1], [1, 8]] is nearest, in squares, to a + b of [[-1.5, 2.5], [2.5, 6.5]]
# among all sums of two agents' values: its mean is 2.5, its rows' and columns' means 0.5 and 4.5.
ADDITIVE_2B = torch.tensor([[-1.5, 2.5], [2.5, 6.5]])


def learner_of(algo: str) -> QLearner:
    config = with_values(TrainConfig(), SETTINGS | {"algo": algo}, "test")
    torch.manual_seed(1)
    return QLearner(TwoStepEnv().info, config.task.algo, config.learning, torch.device("cpu"))


@pytest.fixture(scope="module")
def learned() -> dict[str, Summary]:
    """The full study of one seed."""
    return run(Command(seeds=1))


def test_qmix_finds_the_true_values_and_takes_the_8(learned: dict[str, Summary]) -> None:
    qmix = learned["qmix"]
    assert qmix.greedy_return == 8
    assert qmix.largest_error < 0.1
    for state, truth in (("1", [6.93, 7.92]), ("2A", [7, 7]), ("2B", [0, 1])):
        first_column = [row[0] for row in qmix.q_tot[state]]
        assert first_column == pytest.approx(truth, abs=0.1)


def test_vdn_cannot_write_2b_down_and_settles_for_the_7(learned: dict[str, Summary]) -> None:
    vdn = learned["vdn"]
    assert vdn.greedy_return == 7
    assert torch.tensor(vdn.q_tot["2A"]).sub(7).abs().max() < 0.25
    assert (torch.tensor(vdn.q_tot["2B"]) - ADDITIVE_2B).abs().max() < 0.5
    first = torch.tensor(vdn.q_tot["1"])
    assert first[0].min() > first[1].max()
    assert vdn.largest_error > 1.4  # (B, B) in 2B is 1.5 off at best, but for noise


def test_true_values_are_the_payoffs_and_their_discounted_best() -> None:
    assert true_tables()["1"] == [pytest.approx([6.93] * 2), pytest.approx([7.92] * 2)]
    assert true_tables()["2A"] == [[7, 7], [7, 7]]
    assert true_tables()["2B"] == [[0, 1], [1, 8]]
    first, second = true_values(0.5)
    assert first.tolist() == [[3.5, 3.5], [4, 4]]
    assert second.shape == (2, 2, 2, 2)


def test_a_zero_has_no_minus() -> None:
    assert [spell(value) for value in (-0.001, 0.004, -0.006, 7.999)] == [
        "0.00",
        "0.00",
        "-0.01",
        "8.00",
    ]


def test_joint_values_add_up_what_each_agent_sees_on_its_own_way() -> None:
    """VDN's tables, from the agents' values one by one."""
    learner = learner_of("vdn")
    agent, ids, none = learner.agent, torch.arange(2), torch.full((2,), -1)
    first, second = joint_values(learner)
    with torch.no_grad():
        q, hidden = agent.step(torch.eye(3)[[0, 0]], none, ids, agent.initial_hidden(2))
        assert first[1, 0].item() == pytest.approx((q[0, 1] + q[1, 0]).item(), abs=1e-6)
        # The first agent took B, the second A: 2B, where they then take A and B.
        q, _ = agent.step(torch.eye(3)[[2, 2]], torch.tensor([1, 0]), ids, hidden)
        assert second[1, 0, 0, 1].item() == pytest.approx((q[0, 0] + q[1, 1]).item(), abs=1e-6)


def test_the_games_are_as_many_as_wanted_and_every_way_is_played_as_often() -> None:
    episodes = play_at_random(learner_of("vdn"), seed=1, n_episodes=1050)
    assert len(episodes) == 1050
    ways = torch.tensor([episode.actions.flatten().tolist() for episode in episodes])
    counts = torch.bincount((ways * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16)
    # 16 equally likely ways: 65.6 of each, with a standard deviation of 7.8.
    assert counts.min() > 65.6 - 4.5 * 7.8
    assert counts.max() < 65.6 + 4.5 * 7.8


def test_a_seed_repeats_and_another_differs() -> None:
    one, again, other = study("qmix", 1, 64), study("qmix", 1, 64), study("qmix", 2, 64)
    assert one == again
    assert one.q_tot != other.q_tot


def test_too_few_games_to_learn_from_are_refused() -> None:
    with pytest.raises(ValueError, match="31 episodes do not fill a batch of 32"):
        study("qmix", 1, 31)


def test_the_command_prints_json_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "tables.png"
    flags = ["--seeds", "2", "--episodes", "40", "--json", "--picture", str(picture)]
    done = subprocess.run(
        [sys.executable, "-m", "training.two_step", *flags],
        capture_output=True,
        text=True,
        check=True,
    )
    printed = json.loads(done.stdout)
    assert list(printed) == ["qmix", "vdn"]
    for algo in ("qmix", "vdn"):
        assert [seed["seed"] for seed in printed[algo]["seeds"]] == [1, 2]
        values = [seed["q_tot"]["2B"][1][1] for seed in printed[algo]["seeds"]]
        assert printed[algo]["q_tot"]["2B"][1][1] == pytest.approx(sum(values) / 2, abs=1e-6)
        returns = [seed["greedy_return"] for seed in printed[algo]["seeds"]]
        assert printed[algo]["greedy_return"] == sum(returns) / 2
    assert "(4 of 4, " in done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["tables.png"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["--seeds", "1", "--picture", "no/where.png"], "no/where.png: there is no folder 'no'"),
    ],
)
def test_a_mistake_is_said_in_one_line(flags: list[str], message: str) -> None:
    command = [sys.executable, "-m", "training.two_step", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"training.two_step: {message}\n")
    assert "Traceback" not in done.stderr
