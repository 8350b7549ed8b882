"""HTTP requests at the moments they are due, whatever became of those before.

A caller that waits for an answer before it asks again spares a server that is slow; here the
requests go on coming, and latency counts from when a request was due.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

MOST_CONNECTIONS = 256
"""Requests under way at once; what is due while all are busy waits for none, and stays unsent."""
UNSENT, HUNG_UP = 0, -1


class Answer(NamedTuple):
    """What became of a request; times in seconds of the event loop's clock."""

    due: float
    done: float
    status: int
    """HTTP's, or UNSENT, or HUNG_UP."""


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, one request at a time, answers with a content-length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self.is_lost = False
        self._received = bytearray()
        self._length = 0
        self._tell: Callable[[int], None] | None = None

    def ask(self, request: bytes, tell: Callable[[int], None]) -> None:
        assert self._transport is not None
        self._received.clear()
        self._length, self._tell = 0, tell
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._length:
            head, end, _ = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            _, _, rest = bytes(head).lower().partition(b"content-length:")
            self._length = len(head) + 4 + int(rest.split(b"\r\n")[0])
        if len(self._received) >= self._length:
            self._say(int(self._received[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._say(HUNG_UP)

    def _say(self, status: int) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(status)


def post_request(address: str, path: str, body: bytes) -> bytes:
    """The bytes of a POST of JSON."""
    head = f"POST {path} HTTP/1.1\r\nhost: {urlsplit(address).netloc}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def offer(address: str, request: bytes, rate: float, seconds: float) -> list[Answer]:
    """Send so many requests a second, evenly, and wait for the answers; in the order of those."""
    loop = asyncio.get_running_loop()
    free: list[_Connection] = []
    opened: list[_Connection] = []
    answers: list[Answer] = []
    n = max(1, round(rate * seconds))
    all_in = asyncio.Event()

    def keep(due: float, connection: _Connection | None, status: int) -> None:
        answers.append(Answer(due, loop.time(), status))
        if connection is not None:
            free.append(connection)
        if len(answers) == n:
            all_in.set()

    start = loop.time()
    for number in range(n):
        due = start + number / rate
        if (wait := due - loop.time()) > 0 or number % 16 == 0:
            await asyncio.sleep(max(0.0, wait))
        while free and free[-1].is_lost:
            opened.remove(free.pop())
        if not free and len(opened) < MOST_CONNECTIONS:
            free += await _connect(address, 1)
            opened.append(free[-1])
        if free:
            connection = free.pop()
            connection.ask(request, functools.partial(keep, due, connection))
        else:
            keep(due, None, UNSENT)
    await all_in.wait()
    for connection in opened:
        connection.close()
    return answers


async def saturate(address: str, request: bytes, connections: int, seconds: float) -> list[Answer]:
    """Ask again as soon as an answer is there, over so many connections; what has been answered."""
    loop = asyncio.get_running_loop()
    answers: list[Answer] = []
    end = loop.time() + seconds

    def ask(connection: _Connection) -> None:
        asked = loop.time()

        def keep(status: int) -> None:
            answers.append(Answer(asked, loop.time(), status))
            if loop.time() < end and status != HUNG_UP:
                ask(connection)

        connection.ask(request, keep)

    everyone = await _connect(address, connections)
    for connection in everyone:
        ask(connection)
    await asyncio.sleep(seconds)
    for connection in everyone:
        connection.close()
    return [answer for answer in answers if answer.done < end]


async def _connect(address: str, n: int) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    host, _, port = urlsplit(address).netloc.rpartition(":")
    pairs = [await loop.create_connection(_Connection, host, int(port)) for _ in range(n)]
    return [connection for _, connection in pairs]
