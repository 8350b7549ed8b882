"""SMAX through the batched protocol, with a stand-in for it whose battles are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import smax_check
from benchmarks.smax_check import SmaxEnv, curve
from training import envs

STAND_IN = Path(__file__).with_name("smax_stand_in.py")
ACTIONS = torch.zeros(4, 2, dtype=torch.int64)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smax_check, "WORKER", STAND_IN)
    monkeypatch.setattr(smax_check, "peer_python", lambda name, say: Path(sys.executable))


@pytest.fixture
def env(stand_in: None) -> Iterator[SmaxEnv]:
    env = SmaxEnv("3m", 4)
    yield env
    env.close()


def test_sizes_are_the_battles(env: SmaxEnv) -> None:
    info = env.info
    assert (info.n_agents, info.n_enemies, info.n_actions) == (2, 2, 2)
    assert (info.obs_dim, info.state_dim, info.episode_limit) == (3, 5, 4)


def test_battles_end_as_they_are_decided_or_too_long(env: SmaxEnv) -> None:
    """Battles 0, 1, 2 are decided in steps 2, 3, 4: won, lost, won; 3 lasts too long."""
    shown = env.reset()
    assert shown.obs.shape == (4, 2, 3)
    assert shown.state[:, 0].tolist() == [0, 1, 2, 3]
    steps = [env.step(ACTIONS) for _ in range(5)]
    ended = [[bool(step.terminated[slot]) for step in steps] for slot in range(4)]
    assert ended[0] == [False, True, True, True, True]
    assert ended[1] == [False, False, True, True, True]
    assert ended[2] == [False, False, False, True, True]
    assert ended[3] == [False] * 5
    assert [bool(step.truncated[3]) for step in steps] == [False, False, False, True, True]
    won = [[bool(step.battle_won[slot]) for step in steps] for slot in range(4)]
    assert won[0] == [False, True, False, False, False]
    assert not any(won[1])
    assert won[2] == [False, False, False, True, False]
    assert [float(step.reward[0]) for step in steps] == [10, 10, 0, 0, 0]
    assert steps[1].dead_enemies.tolist()[0] == steps[2].dead_allies.tolist()[1] == 2


def test_slots_begin_new_battles_by_themselves(env: SmaxEnv) -> None:
    env.reset()
    env.step(ACTIONS)
    shown = env.reset(torch.tensor([False, True, False, True]))
    assert shown.state[:, 0].tolist() == [0, 4, 2, 5]
    assert shown.obs[:, 0, 0].tolist() == [1, 0, 1, 0]
    numbers = torch.tensor([9, 9, 9, 9])
    assert env.reset(battle_ids=numbers).state[:, 0].tolist() == [9, 9, 9, 9]
    assert env.reset().state[:, 0].tolist() == [10, 11, 12, 13]
    assert env.state_dict() == {"next_battle": 14}


def test_it_is_trained_on_like_any_other(
    stand_in: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    for table in (envs.ENVS, envs.DEFAULT_MAPS):
        monkeypatch.setitem(table, "smax", None)  # taken back at the end
    words = ["--runs-dir", str(tmp_path), "--parallel", "4", "--env-steps", "200"]
    words += ["--test-interval", "100", "--test-nepisode", "4"]
    assert smax_check.main([*words, "--minutes", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("steps  won 0." in line for line in lines)


def test_a_curve_is_the_tests(tmp_path: Path) -> None:
    rows = [
        {"t_env": 1000, "return_mean": 0.5},
        {"t_env": 20000, "test_return_mean": 1.504, "test_battle_won_mean": 0.75},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert curve(file) == ["    20,000 steps  won 0.750  return 1.50"]
