"""Two hundred callers who stall at both doors, while others are served as if nobody did."""

from __future__ import annotations

import contextlib
import select
import socket
import time

import numpy as np
import pytest

from serving.client import Units
from tests.serving.running import RunningServer

N = 100
"""At each door."""
CLOSED_S = 5.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STALLED = {
    "rest": [b"", b"POST /agents/0/act HT", b"GET /livez HTTP/1.1\r\nhost: x\r\n",
             b"POST /agents/0/act HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{"],
    "grpc": [b"", PREFACE[:9]],
}  # fmt: skip


def closed(connections: list[socket.socket], deadline: float) -> int:
    """How many the server hangs up on by then."""
    waiting = set(connections)
    while waiting and (left := deadline - time.monotonic()) > 0:
        for connection in select.select(list(waiting), [], [], left)[0]:
            with contextlib.suppress(ConnectionError):
                if connection.recv(4096):
                    continue
            waiting.remove(connection)
    return len(connections) - len(waiting)


@pytest.mark.parametrize("door", ["rest", "grpc"])
def test_stalled_callers_are_hung_up_on_and_others_are_served(
    server: RunningServer, door: str
) -> None:
    rest = server.rest.removeprefix("http://")
    host, _, port = (server.grpc if door == "grpc" else rest).rpartition(":")
    with contextlib.ExitStack() as stack:
        served = [
            stack.enter_context(Units(url, [0, 1, 2]))
            for url in (f"grpc://{server.grpc}/tiny", f"{server.rest}/tiny")
        ]
        for each in served:
            each.begin_episode()
        stalled = []
        for number in range(N):
            connection = stack.enter_context(socket.create_connection((host, int(port)), 5))
            starts = STALLED[door]
            connection.sendall(starts[number % len(starts)])
            stalled.append(connection)
        end = time.monotonic() + CLOSED_S + 1  # and one for other programs on the machine
        for _ in range(20):
            for each in served:
                each.act(np.full((3, 7), 0.5), np.ones((3, 5), bool))
            time.sleep(0.05)
        assert closed(stalled, end) == N
