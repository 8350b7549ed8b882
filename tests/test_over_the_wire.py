"""Executed apart: units over the wire play the very battles that the model plays at home."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.client import Memory, ServingClientError
from tests.serving.certificates import Authority
from tests.serving.running import RunningServer
from tests.serving.test_access import write_keys
from training.evaluate import Command, Evaluation, run
from training.policies import PolicyError

MODELS = Path(__file__).parents[1] / "models"
EPISODES = 50


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(MODELS) as running:
        yield running


def play(policy: str, memory: Memory = "held", episodes: int = EPISODES) -> Evaluation:
    return run(Command(policy, "3s5z", episodes, seed=77, parallel=50, memory=memory))


@pytest.fixture(scope="module")
def at_home() -> Evaluation:
    return play(str(MODELS / "3s5z" / "1"))


@pytest.mark.parametrize("memory", ["held", "carried"])
@pytest.mark.parametrize("door", ["grpc", "http"])
def test_the_same_battles_whatever_the_door_and_the_memory(
    server: RunningServer, at_home: Evaluation, door: str, memory: Memory
) -> None:
    address = f"grpc://{server.grpc}" if door == "grpc" else server.rest
    over_the_wire = play(f"{address}/3s5z", memory)
    # Every action of every unit, in battle order, and so every outcome.
    assert over_the_wire.actions_sha256 == at_home.actions_sha256
    unlike = {"policy", "steps_per_second"}
    ours, theirs = dataclasses.asdict(over_the_wire), dataclasses.asdict(at_home)
    assert {k: v for k, v in ours.items() if k not in unlike} == {
        k: v for k, v in theirs.items() if k not in unlike
    }


def test_the_key_and_the_authority_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("server")
    (key,) = write_keys(tmp_path / "keys", "admin")
    settings = {
        "keys": tmp_path / "keys", "tls_certificate": own.certificate, "tls_key": own.key
    }  # fmt: skip
    with RunningServer(MODELS, settings) as locked:
        for address in (f"grpcs://{locked.grpc}", locked.rest):
            with monkeypatch.context() as environment:
                environment.setenv("UNMIX_CALLER_CA", str(authority.file))
                with pytest.raises(ServingClientError, match="UNMIX_CALLER_KEY"):
                    play(f"{address}/3s5z", episodes=1)
                environment.setenv("UNMIX_CALLER_KEY", key)
                assert play(f"{address}/3s5z", episodes=1).episodes == 1


def test_how_many_battles_run_beside_it_changes_nothing(at_home: Evaluation) -> None:
    few = run(Command(str(MODELS / "3s5z" / "1"), "3s5z", EPISODES, seed=77, parallel=7))
    assert few.actions_sha256 == at_home.actions_sha256


def test_the_shipped_agent_wins(at_home: Evaluation) -> None:
    # Its manifest promises more, over 1,000 battles; of 50, nine in ten are safe to ask for.
    assert at_home.win_rate >= 0.9


def test_a_model_of_another_map_is_refused(server: RunningServer) -> None:
    with pytest.raises(PolicyError, match=r"made for 3s5z, whose observations .* not those of 8m"):
        run(Command(f"grpc://{server.grpc}/3s5z", "8m", 1))


def test_no_such_policy() -> None:
    with pytest.raises(PolicyError, match=r"'heurstic' is no run.*did you mean 'heuristic'"):
        run(Command("heurstic", "3s5z", 1))
