"""Executed apart, as a command: units in processes of their own play the model's very battles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.running import RunningServer
from training import evaluate
from training.isolation import IsolationError, isolated
from training.play import Command, run
from training.policies import PolicyError

MODELS = Path(__file__).parents[2] / "models"
FOLDER = MODELS / "3m" / "1"
EPISODES, PATIENCE_MS = 3, 30_000.0


@pytest.fixture(scope="module")
def at_home() -> evaluate.Evaluation:
    return evaluate.run(evaluate.Command(str(FOLDER), "3m", EPISODES, seed=777))


def play(**settings: object) -> Command:
    return Command(map_name="3m", episodes=EPISODES, deadline_ms=PATIENCE_MS, **settings)  # type: ignore[arg-type]


def test_each_unit_with_the_model_in_its_own_process(at_home: evaluate.Evaluation) -> None:
    outcome = run(play(model=FOLDER))
    assert outcome.evaluation.actions_sha256 == at_home.actions_sha256
    assert outcome.evaluation.win_rate == at_home.win_rate
    for agent, unit in enumerate(outcome.units):
        assert unit["agent"] == agent
        assert (unit["missed"], unit["restarts"]) == (0, 0)
        assert 0 < unit["p50_ms"] <= unit["p99_ms"] <= unit["max_ms"] < PATIENCE_MS


@pytest.mark.parametrize(("door", "memory"), [("grpc", "held"), ("http", "carried")])
def test_each_unit_with_its_own_connection(
    at_home: evaluate.Evaluation, door: str, memory: str
) -> None:
    with RunningServer(MODELS) as server:
        address = f"grpc://{server.grpc}" if door == "grpc" else server.rest
        outcome = run(play(server=f"{address}/3m", memory=memory))
    assert outcome.evaluation.actions_sha256 == at_home.actions_sha256


def test_each_unit_in_a_network_of_its_own(at_home: evaluate.Evaluation) -> None:
    try:
        with isolated(1):
            pass
    except IsolationError as error:
        pytest.skip(str(error))
    outcome = run(play(model=FOLDER, isolate=True))
    assert outcome.evaluation.actions_sha256 == at_home.actions_sha256


def test_no_time_at_all_loses_the_battle_and_crashes_nothing() -> None:
    outcome = run(Command(model=FOLDER, map_name="3m", episodes=1, deadline_ms=0.0))
    assert outcome.evaluation.win_rate == 0
    assert all(unit["missed"] == unit["steps"] > 0 for unit in outcome.units)
    assert all(unit["p50_ms"] is None for unit in outcome.units)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "name a policy with --server, or with --model"),
        ({"server": "grpc://127.0.0.1:1/3m", "model": FOLDER}, "leave out the others"),
        ({"model": MODELS / "3m"}, "is no exported model"),
        ({"model": MODELS / "8m" / "1"}, "8m/1 was made for 8m"),
    ],
)
def test_what_cannot_be_played_is_refused(settings: dict[str, object], fault: str) -> None:
    with pytest.raises(PolicyError, match=fault):
        run(play(**settings))


def test_the_command_prints_json() -> None:
    command = [sys.executable, "-m", "training.play", "--map", "3m", "--model", str(FOLDER)]
    short = [*command, "--episodes", "1", "--json"]
    ended = subprocess.run(short, capture_output=True, text=True, check=True)
    said = json.loads(ended.stdout)
    assert said["evaluation"]["episodes"] == 1
    assert [unit["agent"] for unit in said["units"]] == [0, 1, 2]
