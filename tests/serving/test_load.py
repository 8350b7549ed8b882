"""More than the service can take at once, and callers that leave: real servers, halted for a moment
(SIGSTOP) so that what happens to them at the same time is certain."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc
from tests.serving.running import RunningServer

OBS = np.linspace(-1, 1, 7, dtype="<f4").tobytes()
MASK = bytes([0, 1, 1, 0, 1])
BODY = json.dumps({"obs": [0.5] * 7, "avail_actions": [1] * 5}).encode()
POST = b"POST /agents/0/act HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
GET = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def slow_server(models: Path) -> Iterator[RunningServer]:
    """One row a run, and room for 512 to wait."""
    with RunningServer(models, {"max_batch": 1, "max_queue": 512}) as running:
        yield running


@contextlib.contextmanager
def halted(server: RunningServer) -> Iterator[None]:
    """The server sees what happens in here only afterwards, all at once."""
    pid = server.serving_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def numbers(server: RunningServer) -> dict[str, float]:
    """/metrics, by name and labels."""
    lines = httpx.get(f"{server.rest}/metrics", trust_env=False).text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def n_run(shown: dict[str, float]) -> float:
    return shown['unmix_batch_rows_sum{model="tiny",version="1"}']


def n_requests(shown: dict[str, float], door: str, code: str) -> float:
    return shown.get(f'unmix_requests_total{{code="{code}",door="{door}"}}', 0)


@contextlib.contextmanager
def connections(server: RunningServer, n: int) -> Iterator[list[socket.socket]]:
    """Open HTTP connections that have been used before."""
    host, port = server.rest.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            for _ in range(n)
        ]
        for connection in opened:
            connection.sendall(GET)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        yield opened


def stub(channel: grpc.Channel) -> Any:
    return pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]


class Team:
    """A team stream of so many units, over a connection of its own."""

    def __init__(self, server: RunningServer, n: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(server.grpc, options=options)
        self._requests: queue.SimpleQueue[pb.TeamStreamRequest | None] = queue.SimpleQueue()
        self._call = stub(self.channel).TeamStream(iter(self._requests.get, None), timeout=30)
        units = list(range(n))
        self._step = pb.TeamStreamRequest(units=units, obs=OBS * n, avail_actions=MASK * n)
        self._requests.put(pb.TeamStreamRequest(begin=pb.TeamBegin(units=units, agent_ids=[0] * n)))
        assert not next(self._call).HasField("fault")

    def send(self) -> None:
        self._requests.put(self._step)

    def receive(self) -> pb.TeamStreamResponse:
        answer: pb.TeamStreamResponse = next(self._call)
        return answer

    def close(self) -> None:
        self._requests.put(None)
        assert list(self._call) == []
        self.channel.close()


def test_steps_of_connections_that_have_closed_are_not_run(slow_server: RunningServer) -> None:
    """Of forty callers the last twenty hang up, before it is their turn: twenty rows are run."""
    before = numbers(slow_server)
    with connections(slow_server, 40) as opened:
        with halted(slow_server):
            for connection in opened:
                connection.sendall(POST)
            for connection in opened[20:]:
                connection.close()
        for connection in opened[:20]:
            assert connection.recv(4000).startswith(b"HTTP/1.1 200")
    after = numbers(slow_server)
    assert n_run(after) == n_run(before) + 20
    assert n_requests(after, "rest", "ok") == n_requests(before, "rest", "ok") + 20
    assert n_requests(after, "rest", "abandoned") == n_requests(before, "rest", "abandoned") + 20


def test_a_step_whose_deadline_has_passed_is_not_run(slow_server: RunningServer) -> None:
    before = numbers(slow_server)
    with grpc.insecure_channel(slow_server.grpc) as channel:
        act = stub(channel).Act
        request = pb.ActRequest(obs=OBS, avail_actions=MASK)
        act(request)
        with halted(slow_server):
            late = act.future(request, timeout=0.2)
            with pytest.raises(grpc.RpcError) as caught:
                late.result()
        error: Any = caught.value
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        act(request)
    after = numbers(slow_server)
    assert n_run(after) == n_run(before) + 2  # the first and the last


def test_a_caller_that_cancels_is_not_stepped(slow_server: RunningServer) -> None:
    with grpc.insecure_channel(slow_server.grpc) as channel:
        act = stub(channel).Act
        request = pb.ActRequest(obs=OBS, avail_actions=MASK)
        act(request)
        before = numbers(slow_server)
        with halted(slow_server):
            gone = act.future(request, timeout=20)
            time.sleep(0.05)
            gone.cancel()
            time.sleep(0.05)
        act(request)
    assert n_run(numbers(slow_server)) == n_run(before) + 1


def test_more_than_may_wait_is_refused_at_once_and_told_when_to_come_back(models: Path) -> None:
    """Room for four rows, one row a run, twelve callers at once."""
    with (
        RunningServer(models, {"max_batch": 1, "max_queue": 4}) as running,
        connections(running, 12) as opened,
    ):
        with halted(running):
            for connection in opened:
                connection.sendall(POST)
        answers = [connection.recv(4000) for connection in opened]
        served = [answer for answer in answers if answer.startswith(b"HTTP/1.1 200")]
        refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 429")]
        assert (len(served) + len(refused), len(served) >= 4) == (12, True)
        assert refused
        for answer in refused:
            assert b"\r\nretry-after: 1\r\n" in answer
            assert b"4 of at most 4 rows are waiting already" in answer
        shown = numbers(running)
        assert n_requests(shown, "rest", "overloaded") == len(refused)
        assert n_run(shown) == len(served)


def test_a_team_that_finds_no_room_is_told_so_and_goes_on(slow_server: RunningServer) -> None:
    first, second = Team(slow_server, 512), Team(slow_server, 512)
    with halted(slow_server):
        first.send()
        time.sleep(0.05)
        second.send()
        time.sleep(0.05)
    answers = [first.receive(), second.receive()]
    faults = [answer.fault for answer in answers if answer.HasField("fault")]
    (fault,) = faults
    assert (fault.reason, fault.retry_after_s) == ("OVERLOADED", 1)
    assert fault.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    second.send()
    assert len(second.receive().actions) == 512
    first.close()
    second.close()


def test_a_single_step_does_not_wait_for_the_whole_of_a_team_before_it(
    slow_server: RunningServer,
) -> None:
    """A team's 400 rows wait, one a run. The single row that comes next runs next but one, so that
    its answer is there before the team's, although the team was first."""
    team = Team(slow_server, 400)
    order: queue.SimpleQueue[str] = queue.SimpleQueue()
    with grpc.insecure_channel(slow_server.grpc) as channel:
        act = stub(channel).Act
        request = pb.ActRequest(obs=OBS, avail_actions=MASK)
        act(request)
        with halted(slow_server):
            team.send()
            time.sleep(0.05)
            single = act.future(request, timeout=20)
            single.add_done_callback(lambda _: order.put("single"))
            time.sleep(0.05)
        assert len(team.receive().actions) == 400
        order.put("team")
        assert single.result().model == "tiny"
    assert [order.get(), order.get()] == ["single", "team"]
    team.close()
