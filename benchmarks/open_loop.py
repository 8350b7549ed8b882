"""HTTP requests at the moments they are due, whatever became of those before.

A caller that waits for an answer before it asks again spares a server that is slow; here the
requests go on coming, and latency counts from when a request was due.

    python -m benchmarks.open_loop URL RATE CONNECTIONS SECONDS BODY_FILE

POSTs the body RATE times a second and prints a `Load` as JSON.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import uvloop

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
        self._transport = cast(asyncio.Transport, transport)

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
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def offer(
    address: str,
    request: bytes,
    rate: float,
    seconds: float,
    connections: int = MOST_CONNECTIONS,
    waits: bool = False,
) -> list[Answer]:
    """Send so many requests a second, evenly, and wait for the answers; in the order of those.

    Args:
        waits: what is due while all connections are busy waits for one; else it stays unsent.
    """
    loop = asyncio.get_running_loop()
    free: list[_Connection] = []
    opened: list[_Connection] = []
    waiting: deque[float] = deque()
    answers: list[Answer] = []
    n = max(1, round(rate * seconds))
    all_in = asyncio.Event()

    def ask(connection: _Connection, due: float) -> None:
        connection.ask(request, functools.partial(keep, due, connection))

    def keep(due: float, connection: _Connection | None, status: int) -> None:
        answers.append(Answer(due, loop.time(), status))
        if connection is not None and waiting and not connection.is_lost:
            ask(connection, waiting.popleft())
        elif connection is not None:
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
        if not free and len(opened) < connections:
            free += await _connect(address, 1)
            opened.append(free[-1])
        if free:
            ask(free.pop(), due)
        elif waits:
            waiting.append(due)
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


async def _main(url: str, rate: str, connections: str, seconds: str, body_file: str) -> None:
    from benchmarks.serving_load import load_of

    where = urlsplit(url)
    request = post_request(url, where.path, Path(body_file).read_bytes())
    address = f"{where.scheme}://{where.netloc}"
    load = float(rate), float(seconds), int(connections)
    answers = await offer(address, request, *load, waits=True)
    if failed := Counter(answer.status for answer in answers if answer.status != 200):
        raise SystemExit(f"of {len(answers)} requests some failed; by status: {dict(failed)}")
    first, last = min(answer.due for answer in answers), max(answer.done for answer in answers)
    milliseconds = [1e3 * (answer.done - answer.due) for answer in answers]
    print(json.dumps(asdict(load_of(milliseconds, last - first))))


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
