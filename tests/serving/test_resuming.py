"""Units that outlive their server: killed in mid-episode, restarted or replaced, same actions."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serving.client import Memory, ServingClientError, Unit, Units, connect
from serving.client.retry import Retry
from serving.models.agent_model import AgentModel, Row, StepResult
from tests.artifacts import Policy, write_artifact
from tests.serving.running import RunningServer

N_UNITS, N_STEPS = 6, 30
WAYS: list[tuple[str, Memory]] = list(itertools.product(["grpc", "http"], ["held", "carried"]))
OBS = np.random.default_rng(0).uniform(-1, 1, (N_STEPS, N_UNITS, 7)).astype(np.float32)
MASKS = np.ones((N_UNITS, 5), np.bool_)
AGENTS = [unit % 3 for unit in range(N_UNITS)]
PATIENT = Retry(tries=100, longest_wait_s=0.5)


@pytest.fixture(scope="module")
def undisturbed(model: AgentModel) -> npt.NDArray[np.int64]:
    """[T, N] actions of the twin that nothing happens to."""
    actions = np.empty((N_STEPS, N_UNITS), np.int64)
    for unit, agent in enumerate(AGENTS):
        hidden, last = model.first_hidden, -1
        for step in range(N_STEPS):
            own = OBS[step, unit].tobytes()
            (result,) = model.step([Row(own, MASKS[unit].tobytes(), last, agent, hidden)])
            assert isinstance(result, StepResult)
            hidden, last = result.next_hidden, result.action
            actions[step, unit] = last
    return actions


def free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(
        ("127.0.0.1", 0)
    ) as two:  # fmt: skip
        return one.getsockname()[1], two.getsockname()[1]


def url_of(server: RunningServer, scheme: str) -> str:
    return f"grpc://{server.grpc}/tiny" if scheme == "grpc" else f"{server.rest}/tiny"


@contextlib.contextmanager
def killed_at_the_end(server: RunningServer) -> Iterator[RunningServer]:
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        yield RunningServer.__enter__(server)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "sealed"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not request.param:
        return {}
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"k {base64.b64encode(bytes(32)).decode()}\n")
    return {"memory_keys": keys}


def test_a_killed_server_that_comes_back_costs_no_action(
    models: Path, settings: dict[str, Any], undisturbed: npt.NDArray[np.int64]
) -> None:
    """All four ways at once; killed between two steps, and in the midst of them."""
    ports = free_ports()
    played: dict[tuple[str, Memory], list[npt.NDArray[np.int64]]] = {way: [] for way in WAYS}

    def play(scheme: str, memory: Memory, url: str) -> None:
        with Units(url, AGENTS, memory, 60, PATIENT) as units:
            units.begin_episode()
            for obs in OBS:
                played[scheme, memory].append(units.act(obs, MASKS))
                time.sleep(0.05)

    def wait(n_steps: int) -> None:
        end = time.monotonic() + 60
        while min(map(len, played.values())) < n_steps:
            assert time.monotonic() < end
            time.sleep(0.005)

    players: list[threading.Thread] = []
    for n_steps in (6, 14):
        with killed_at_the_end(RunningServer(models, settings, ports=ports)) as running:
            if not players:
                for scheme, memory in WAYS:
                    arguments = (scheme, memory, url_of(running, scheme))
                    players.append(threading.Thread(target=play, args=arguments, daemon=True))
                    players[-1].start()
            wait(n_steps)
            assert max(map(len, played.values())) < N_STEPS
            running.kill()
    with RunningServer(models, settings, ports=ports):
        for player in players:
            player.join(60)
            assert not player.is_alive()
    for way in WAYS:
        np.testing.assert_array_equal(np.stack(played[way]), undisturbed, str(way))


def test_another_replica_goes_on_where_a_killed_one_was(
    models: Path, settings: dict[str, Any], undisturbed: npt.NDArray[np.int64]
) -> None:
    with (
        killed_at_the_end(RunningServer(models, settings)) as first,
        RunningServer(models, settings) as second,
        contextlib.ExitStack() as stack,
    ):
        teams = [
            stack.enter_context(
                Units(
                    url_of(first, scheme),
                    AGENTS,
                    memory,
                    20,
                    Retry(elsewhere=(url_of(second, scheme),)),
                )
            )
            for scheme, memory in WAYS
        ]
        for units in teams:
            units.begin_episode()
        for step in range(N_STEPS):
            if step == 10:
                first.kill()
            for units in teams:
                np.testing.assert_array_equal(units.act(OBS[step], MASKS), undisturbed[step])
        for units in teams:
            units.begin_episode()
            np.testing.assert_array_equal(units.act(OBS[0], MASKS), undisturbed[0])


def test_without_retry_a_broken_stream_is_the_end(models: Path) -> None:
    with (
        killed_at_the_end(RunningServer(models)) as running,
        Unit(url_of(running, "grpc"), 0) as unit,
    ):
        unit.act(OBS[0, 0], MASKS[0])
        running.kill()
        with pytest.raises(ServingClientError, match="UNAVAILABLE"):
            unit.act(OBS[1, 0], MASKS[0])


def test_an_expired_session_is_opened_anew_where_it_was(
    models: Path, undisturbed: npt.NDArray[np.int64]
) -> None:
    with (
        RunningServer(models, {"session_ttl_s": 0.2}) as running,
        Unit(url_of(running, "http"), 0, "held", 20, Retry()) as unit,
    ):
        for step in range(3):
            assert unit.act(OBS[step, 0], MASKS[0]) == undisturbed[step, 0]
            time.sleep(0.4)


def test_an_episode_stays_with_its_version_on_the_other_replica(tmp_path: Path) -> None:
    for version in (1, 2):
        write_artifact(tmp_path / "two", Policy(seed=version), version=version)
    write_artifact(tmp_path / "one", Policy(seed=1), version=1)
    with (
        killed_at_the_end(RunningServer(tmp_path / "one")) as first,
        RunningServer(tmp_path / "two") as second,
    ):
        retry = Retry(elsewhere=(url_of(second, "grpc"),))

        async def play() -> list[int]:
            async with connect(url_of(first, "grpc"), 0, "held", 20, retry) as unit:
                await unit.begin_episode()
                versions = []
                for step in range(4):
                    if step == 2:
                        first.kill()
                    await unit.act(OBS[step, 0], MASKS[0])
                    versions.append(unit.version)
                await unit.begin_episode()
                await unit.act(OBS[0, 0], MASKS[0])
                return [*versions, unit.version]

        assert asyncio.run(play()) == [1, 1, 1, 1, 2]


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
def test_tries_are_counted(scheme: str, memory: Memory) -> None:
    port = free_ports()[0]
    start = time.monotonic()
    retry = Retry(tries=3, first_wait_s=0.1, longest_wait_s=0.2)
    with Unit(f"{scheme}://127.0.0.1:{port}/tiny", 0, memory, 20, retry) as unit:
        with pytest.raises(ServingClientError) as caught:
            unit.act(OBS[0, 0], MASKS[0])
        assert caught.value.status in {"UNAVAILABLE", "UNREACHABLE"}
    assert 0.15 <= time.monotonic() - start < 10


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
def test_a_silent_server_is_left_for_another_and_the_deadline_holds(
    server: RunningServer, scheme: str, memory: Memory, undisturbed: npt.NDArray[np.int64]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/tiny"
        elsewhere = Retry(elsewhere=(url_of(server, scheme),))
        with Unit(url, 0, memory, 6, elsewhere) as unit:
            assert unit.act(OBS[0, 0], MASKS[0]) == undisturbed[0, 0]
        start = time.monotonic()
        with (
            Unit(url, 0, memory, 0.6, Retry(tries=1000, first_wait_s=0.01)) as unit,
            pytest.raises(ServingClientError, match=r"no answer in 0\.6 s"),
        ):
            unit.act(OBS[0, 0], MASKS[0])
        assert 0.5 < time.monotonic() - start < 5


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
def test_what_will_never_be_right_is_not_tried_again(
    server: RunningServer, scheme: str, memory: Memory, undisturbed: npt.NDArray[np.int64]
) -> None:
    forever = Retry(tries=10**6, first_wait_s=60, longest_wait_s=60)
    with Unit(url_of(server, scheme), 0, memory, 20, forever) as unit:
        assert unit.act(OBS[0, 0], MASKS[0]) == undisturbed[0, 0]
        with pytest.raises(ServingClientError, match="obs has 1 values"):
            unit.act([0.5], MASKS[0])
        # The refused step has not cost the memory.
        assert unit.act(OBS[1, 0], MASKS[0]) == undisturbed[1, 0]
    with (
        Unit(url_of(server, scheme).replace("tiny", "none"), 0, memory, 20, forever) as unit,
        pytest.raises(ServingClientError, match="no model of that name"),
    ):
        unit.act(OBS[0, 0], MASKS[0])


def test_waits_double_up_to_a_limit_and_differ() -> None:
    retry = Retry(tries=6, first_wait_s=1, longest_wait_s=5)
    many = np.array([list(retry.waits()) for _ in range(200)])
    longest = np.array([1, 2, 4, 5, 5])
    assert (many <= longest).all()
    assert (many >= longest / 2).all()
    assert (many.std(axis=0) > longest / 20).all()
    assert list(Retry(tries=1).waits()) == []


def test_doors_do_not_mix() -> None:
    with pytest.raises(ValueError, match=r"all be grpc\(s\):// or all http\(s\)://"):
        Unit("grpc://h:1/m", 0, retry=Retry(elsewhere=("http://h:2/m",)))
    with pytest.raises(ValueError, match="address of a policy"):
        Unit("grpc://h:1/m", 0, retry=Retry(elsewhere=("h:2/m",)))
