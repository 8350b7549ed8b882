"""Callers who do not wait for each other: requests begin when they are due, answered or not.

    python -m benchmarks.open_loop URL RATE CONNECTIONS SECONDS BODY_FILE

POSTs the body RATE times a second and prints a `Load` as JSON. A request is timed from when it was
due, so that one which had to wait for a connection, or for this program, is not made to look fast.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.serving_load import load_of

_END_S = 10.0
"""How long the last answers may take."""


class _Connection(asyncio.Protocol):
    """HTTP/1.1, one request at a time, for answers that say how long they are."""

    def __init__(self, calls: _Calls) -> None:
        self._calls, self._buffer, self._due = calls, b"", 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if found and len(body) >= _length(head):
            self._buffer = b""
            self._calls.answered(self, head, self._due)

    def connection_lost(self, error: Exception | None) -> None:
        self._calls.lost()


class _Calls:
    """Requests that are due go to a connection that is free, the longest due first."""

    def __init__(self, request: bytes, n: int) -> None:
        self._request, self._n_left = request, n
        self._free: list[_Connection] = []
        self._waiting: deque[float] = deque()
        self.milliseconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, connection: _Connection) -> None:
        self._free.append(connection)

    def due(self, at: float) -> None:
        if self._free:
            self._free.pop().send(self._request, at)
        else:
            self._waiting.append(at)

    def answered(self, connection: _Connection, head: bytes, due: float) -> None:
        if not head.startswith(b"HTTP/1.1 200"):
            self._fail("an answer was no 200")
            return
        self.milliseconds.append(1e3 * (time.perf_counter() - due))
        if self._waiting:
            connection.send(self._request, self._waiting.popleft())
        else:
            self._free.append(connection)
        self._n_left -= 1
        if not self._n_left and not self.done.done():
            self.done.set_result(None)

    def lost(self) -> None:
        self._fail("a connection was closed")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    raise ValueError("an answer does not say how long it is")


async def _main(url: str, rate: str, connections: str, seconds: str, body_file: str) -> None:
    where, body = urlsplit(url), Path(body_file).read_bytes()
    head = (
        f"POST {where.path} HTTP/1.1\r\nhost: {where.netloc}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    n = int(float(rate) * float(seconds))
    calls = _Calls(head.encode() + body, n)
    loop = asyncio.get_running_loop()
    for _ in range(int(connections)):
        _, connection = await loop.create_connection(
            lambda: _Connection(calls), where.hostname or "", where.port or 80
        )
        calls.add(connection)
    start = time.perf_counter()
    for number in range(n):
        at = start + number / float(rate)
        if (early := at - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        elif not number % 100:
            await asyncio.sleep(0)  # late already: answers have to be read all the same
        if calls.done.done():
            break
        calls.due(at)
    async with asyncio.timeout(_END_S):
        await calls.done
    print(json.dumps(asdict(load_of(calls.milliseconds, time.perf_counter() - start))))


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
