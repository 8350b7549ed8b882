"""The client: four ways of playing, one and the same battle."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from serving.client import (
    Memory,
    ModelInfo,
    PolicyUrl,
    ServingClientError,
    Unit,
    Units,
    connect,
    get_model,
)
from serving.models.agent_model import AgentModel, Row, StepResult
from tests.serving.running import RunningServer

N_UNITS, N_STEPS = 24, 12
WAYS: list[tuple[str, Memory]] = [
    ("grpc", "held"),
    ("grpc", "carried"),
    ("http", "held"),
    ("http", "carried"),
]


@pytest.fixture(scope="module")
def urls(server: RunningServer) -> dict[str, str]:
    return {"grpc": f"grpc://{server.grpc}/tiny", "http": f"{server.rest}/tiny"}


@pytest.fixture(scope="module")
def battle() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Observations [T, N, O] and masks [T, N, U] of many units over one episode."""
    random = np.random.default_rng(0)
    obs = random.uniform(-1, 1, (N_STEPS, N_UNITS, 7)).astype(np.float32)
    obs[0, 0] = [1e-45, -1e-38, 1 / 3, np.pi, -0.0, 65537.1, 1e-7]
    masks = random.random((N_STEPS, N_UNITS, 5)) < 0.6
    masks[..., 1] = True
    return obs, masks


@pytest.fixture(scope="module")
def reference(
    model: AgentModel, battle: tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]
) -> npt.NDArray[np.int64]:
    """[T, N] actions, one unit and one step at a time."""
    obs, masks = battle
    actions = np.empty((N_STEPS, N_UNITS), np.int64)
    for unit in range(N_UNITS):
        hidden, last = model.first_hidden, -1
        for step in range(N_STEPS):
            own, mask = obs[step, unit].tobytes(), masks[step, unit].tobytes()
            (result,) = model.step([Row(own, mask, last, unit % 3, hidden)])
            assert isinstance(result, StepResult)
            hidden, last = result.next_hidden, result.action
            actions[step, unit] = last
    return actions


def first_step(unit: Unit, obs: list[float]) -> int:
    unit.begin_episode()
    return unit.act(obs, [True] * 5)


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
def test_every_way_of_playing_gives_the_serial_reference(
    urls: dict[str, str],
    scheme: str,
    memory: Memory,
    battle: tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]],
    reference: npt.NDArray[np.int64],
) -> None:
    obs, masks = battle
    assert len(np.unique(reference)) == 5
    with Units(urls[scheme], [unit % 3 for unit in range(N_UNITS)], memory) as units:
        for _ in range(2):
            units.begin_episode()
            played = np.stack([units.act(obs[step], masks[step]) for step in range(N_STEPS)])
            np.testing.assert_array_equal(played, reference)


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
def test_units_need_not_move_together(
    urls: dict[str, str],
    scheme: str,
    memory: Memory,
    battle: tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]],
    reference: npt.NDArray[np.int64],
) -> None:
    obs, masks = battle
    with Units(urls[scheme], [0, 1, 2], memory) as units:
        units.begin_episode()
        for step in range(4):
            units.act(obs[step, [0, 2]], masks[step, [0, 2]], which=[0, 2])
        units.begin_episode(which=[2])
        late = [units.act(obs[step, 1:3], masks[step, 1:3], which=[1, 2]) for step in range(4)]
        np.testing.assert_array_equal(np.stack(late), reference[:4, 1:3])
        on = units.act(obs[4, :1], masks[4, :1], which=[0])
        assert on == reference[4, 0]


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
def test_a_unit_alone(
    urls: dict[str, str],
    scheme: str,
    memory: Memory,
    battle: tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]],
    reference: npt.NDArray[np.int64],
) -> None:
    obs, masks = battle
    with Unit(f"{urls[scheme]}/1", 1, memory) as unit:
        for _ in range(2):
            unit.begin_episode()
            assert [unit.act(obs[t, 1].tolist(), masks[t, 1].tolist()) for t in range(3)] == (
                reference[:3, 1].tolist()
            )


async def test_the_asyncio_client_is_the_same(
    urls: dict[str, str],
    battle: tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]],
    reference: npt.NDArray[np.int64],
) -> None:
    obs, masks = battle
    async with connect(urls["http"], 0) as unit:
        await unit.begin_episode()
        for step in range(3):
            assert await unit.act(obs[step, 0], masks[step, 0]) == reference[step, 0]
        assert (unit.model, unit.version) == ("tiny", 1)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_each_unit_has_its_own_connection(server: RunningServer, urls: dict[str, str],
    scheme: str) -> None:  # fmt: skip
    address = server.grpc if scheme == "grpc" else server.rest.removeprefix("http://")
    port = int(address.rpartition(":")[2])

    def n_connections() -> int:
        lines = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()
        ]
        # Peer's address, then state: 01 is an established connection.
        return sum(line[2].endswith(f":{port:04X}") and line[3] == "01" for line in lines)

    before = n_connections()
    with Units(urls[scheme], [0, 1, 2, 0, 1]) as units:
        units.begin_episode()
        units.act(np.zeros((5, 7)), np.ones((5, 5)))
        assert n_connections() == before + 5


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
@pytest.mark.parametrize(
    ("path", "agent", "obs", "status", "words"),
    [
        ("other", 0, [0.0] * 7, ("NOT_FOUND", "404"), "no model of that name; there is tiny"),
        ("tiny/9", 0, [0.0] * 7, ("NOT_FOUND", "404"), "no version 9"),
        ("tiny", 3, [0.0] * 7, ("NOT_FOUND", "404"), "agents 0 to 2"),
        ("tiny", 0, [0.0] * 6, ("INVALID_ARGUMENT", "422"), "obs has 6 values"),
        ("tiny", 0, [0.0] * 6 + [np.nan], ("INVALID_ARGUMENT", "422"), "obs[6] is not a "),
    ],
)
def test_a_refusal_is_an_error_with_status_and_words(
    urls: dict[str, str],
    scheme: str,
    memory: Memory,
    path: str,
    agent: int,
    obs: list[float],
    status: tuple[str, str],
    words: str,
) -> None:
    url = urls[scheme].replace("/tiny", f"/{path}")
    with Unit(url, agent, memory) as unit:
        with pytest.raises(ServingClientError) as caught:
            first_step(unit, obs)
        assert caught.value.status == status[scheme == "http"]
        assert words in caught.value.message


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
def test_a_unit_goes_on_after_a_refusal(urls: dict[str, str], scheme: str, memory: Memory) -> None:
    with Unit(urls[scheme], 0, memory) as unit:
        unit.begin_episode()
        first = unit.act([0.5] * 7, [True] * 5)
        with pytest.raises(ServingClientError):
            unit.act([0.5], [True] * 5)
        unit.begin_episode()
        assert unit.act([0.5] * 7, [True] * 5) == first


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
def test_nobody_there(scheme: str, memory: Memory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with Unit(f"{scheme}://127.0.0.1:{port}", 0, memory, timeout_s=5) as unit:
        with pytest.raises(ServingClientError) as caught:
            first_step(unit, [0.0])
        assert caught.value.status in {"UNAVAILABLE", "UNREACHABLE"}


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(("scheme", "memory"), WAYS)
def test_a_silent_server_runs_into_the_time_limit(
    silent_port: int, scheme: str, memory: Memory
) -> None:
    with Unit(f"{scheme}://127.0.0.1:{silent_port}", 0, memory, timeout_s=0.3) as unit:
        with pytest.raises(ServingClientError) as caught:
            first_step(unit, [0.0])
        assert caught.value.status in {"DEADLINE_EXCEEDED", "UNREACHABLE", "UNAVAILABLE"}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{",
    ],
)
def test_an_answer_that_is_no_answer_is_an_error(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        replier = threading.Thread(target=reply)
        replier.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Unit(url, 0, "carried", timeout_s=5) as unit:
            with pytest.raises(ServingClientError) as caught:
                unit.act([0.0], [True])
            assert caught.value.status == "UNREACHABLE"
        replier.join(5)


def test_a_session_that_expired_between_episodes_is_opened_anew(models: Path) -> None:
    with (
        RunningServer(models, {"session_ttl_s": 0.2}) as running,
        Unit(f"{running.rest}/tiny", 0, "held") as unit,
    ):
        unit.begin_episode()
        action = unit.act([0.5] * 7, [True] * 5)
        asyncio.run(asyncio.sleep(0.5))
        with pytest.raises(ServingClientError, match="404"):
            unit.act([0.5] * 7, [True] * 5)
        unit.begin_episode()
        assert unit.act([0.5] * 7, [True] * 5) == action


def test_the_model_describes_itself_alike_through_both_doors(urls: dict[str, str]) -> None:
    found = get_model(urls["grpc"])
    assert found == get_model(urls["http"]) == get_model(urls["http"].removesuffix("/tiny"))
    assert found == ModelInfo(
        name="tiny",
        version=1,
        map="3s5z",
        environment="skirmish",
        layout_sha256="ab" * 32,
        algorithm="qmix",
        n_agents=3,
        n_actions=5,
        obs_dim=7,
        hidden_dim=6,
        episode_limit=150,
        unit_types=("stalker",) * 3,
        win_rate=0.25,
        sha256=found.sha256,
    )
    for url in urls.values():
        with pytest.raises(ServingClientError, match="no version 5"):
            get_model(f"{url}/5")


def test_a_refused_model_is_said_to_be(strict_server: RunningServer) -> None:
    for url in (f"grpc://{strict_server.grpc}", strict_server.rest):
        with pytest.raises(ServingClientError, match=r"model\.onnx is not the file"):
            get_model(f"{url}/tiny/2")
        with pytest.raises(ServingClientError, match="other, tiny"):
            get_model(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("grpc://host:1/m", ("grpc", "host:1", "m", 0)),
        ("http://host:1", ("http", "host:1", "", 0)),
        ("https://host:1/m/3/", ("https", "host:1", "m", 3)),
        ("grpc://[::1]:5/m", ("grpc", "[::1]:5", "m", 0)),
    ],
)
def test_addresses(url: str, expected: tuple[str, str, str, int]) -> None:
    parsed = PolicyUrl.parse(url)
    assert (parsed.scheme, parsed.address, parsed.model, parsed.version) == expected


@pytest.mark.parametrize(
    "url",
    ["", "host:1/m", "ftp://host:1/m", "grpc:///m", "grpc://host/m", "http://h:1/m/x",
     "http://h:1/m/1/2", "http://h:1/m?x=1", "http://u:p@h:1/m"],
)  # fmt: skip
def test_what_is_no_address_is_said_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"address of a policy|invalid literal|Port"):
        Units(url, [0])


def test_a_program_that_uses_it_ends_quietly(urls: dict[str, str]) -> None:
    """Many connections come and go on a thread of their own: none may complain when it is over."""
    code = f"""
from serving.client import Units, get_model
for url in {json.dumps(list(urls.values()))}:
    get_model(url)
    for memory in ("held", "carried"):
        with Units(url, [0, 1, 2] * 20, memory) as units:
            print(units.act([[0.5] * 7] * 60, [[True] * 5] * 60).tolist())
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(set(ended.stdout.splitlines())) == 1


def test_threads_that_begin_at_the_same_time_share_one_loop(urls: dict[str, str]) -> None:
    code = f"""
import threading
from serving.client import Unit
barrier = threading.Barrier(8)
def play():
    barrier.wait()
    with Unit({urls["grpc"]!r}, 0) as unit:
        # In one piece: others write at the same time.
        print(f"{{unit.act([0.5] * 7, [True] * 5)}}\\n", end="")
threads = [threading.Thread(target=play) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sum(thread.name == "unmix-client" for thread in threading.enumerate()), "loop")
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    *actions, loops = ended.stdout.splitlines()
    assert (len(actions), len(set(actions)), loops) == (8, 1, "1 loop")
