"""A team behind one connection plays the battle that its units play one by one."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from serving.client import ServingClientError, Units
from serving.client.team import TeamUnits
from tests.serving.running import RunningServer

AGENTS = [place % 3 for place in range(10)]
SCHEMES = ["grpc", "http"]


@pytest.fixture(scope="module")
def urls(server: RunningServer) -> dict[str, str]:
    return {"grpc": f"grpc://{server.grpc}/tiny", "http": f"{server.rest}/tiny"}


def draw(
    random: np.random.Generator, n: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    masks = random.random((n, 5)) < 0.6
    masks[:, 1] = True
    return random.uniform(-1, 1, (n, 7)).astype(np.float32), masks


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_team_acts_as_its_units_do_one_by_one(urls: dict[str, str], scheme: str) -> None:
    random = np.random.default_rng(0)
    seen: set[int] = set()
    with TeamUnits(urls[scheme], AGENTS) as team, Units(urls["grpc"], AGENTS) as units:
        assert len(team) == 10
        for step in range(30):
            # Now all, now some of them in any order; and some battles begin anew on the way.
            which = None if step % 3 == 0 else random.permutation(10)[:4].tolist()
            again = random.permutation(10)[:2].tolist()
            if step % 5 == 4:
                team.begin_episode(again)
                units.begin_episode(again)
            obs, masks = draw(random, 10 if which is None else 4)
            actions = team.act(obs, masks, which)
            assert actions.tolist() == units.act(obs, masks, which).tolist()
            assert actions.dtype == np.int64
            seen |= set(actions.tolist())
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_refusal_names_the_row_and_changes_nothing(urls: dict[str, str], scheme: str) -> None:
    random = np.random.default_rng(1)
    obs, masks = draw(random, 10)
    bad = obs.copy()
    bad[7, 3] = np.nan
    with TeamUnits(urls[scheme], AGENTS) as team, Units(urls[scheme], AGENTS) as units:
        for _ in range(3):
            with pytest.raises(ServingClientError, match=r"rows\[7\]: obs\[3\] is not") as caught:
                team.act(bad, masks)
            assert caught.value.status in {"INVALID_ARGUMENT", "422"}
            assert team.act(obs, masks).tolist() == units.act(obs, masks).tolist()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_one_connection(server: RunningServer, urls: dict[str, str], scheme: str) -> None:
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
    with TeamUnits(urls[scheme], AGENTS) as team:
        team.act(np.zeros((10, 7)), np.ones((10, 5)))
        assert n_connections() == before + 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_must_be_as_many_as_the_units_named(urls: dict[str, str], scheme: str) -> None:
    with TeamUnits(urls[scheme], AGENTS) as team:
        with pytest.raises(ValueError, match="9 observations and 10 masks for 10 units"):
            team.act(np.zeros((9, 7)), np.ones((10, 5)))
        with pytest.raises(ValueError, match="10 observations and 10 masks for 2 units"):
            team.act(np.zeros((10, 7)), np.ones((10, 5)), which=[0, 1])
        with pytest.raises(IndexError):
            team.begin_episode([10])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nobody_there(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with TeamUnits(f"{scheme}://127.0.0.1:{port}", AGENTS, timeout_s=5) as team:
        with pytest.raises(ServingClientError) as caught:
            team.act(np.zeros((10, 7)), np.ones((10, 5)))
        assert caught.value.status in {"UNAVAILABLE", "UNREACHABLE"}


def test_when_the_stream_is_lost_the_units_have_to_begin_again(models: Path) -> None:
    obs, masks = draw(np.random.default_rng(2), 10)
    with RunningServer(models) as running:
        team = TeamUnits(f"grpc://{running.grpc}/tiny", AGENTS, timeout_s=5)
        team.act(obs, masks)
    for words in ("UNAVAILABLE", "UNREACHABLE: the stream is lost"):
        with pytest.raises(ServingClientError, match=words):
            team.act(obs, masks)
    team.close()


def test_a_silent_server_runs_into_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        for scheme in SCHEMES:
            with TeamUnits(f"{scheme}://{address}", AGENTS, timeout_s=0.3) as team:
                with pytest.raises(ServingClientError) as caught:
                    team.act(np.zeros((10, 7)), np.ones((10, 5)))
                assert caught.value.status in {"DEADLINE_EXCEEDED", "UNREACHABLE", "UNAVAILABLE"}
