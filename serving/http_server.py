"""The HTTP/1.1 server under the REST door: uvicorn, with a limit on how long a request may take to
arrive, and answers that leave in one piece."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.events import TimerHandle
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.settings import Settings


def http_server(app: Callable[..., Any], settings: Settings) -> uvicorn.Server:
    """The server; the caller runs `serve` with a listening socket and sets `should_exit`."""
    timeout = {"receive_timeout_s": settings.receive_timeout_s}
    config = uvicorn.Config(
        app,
        http=type("_Protocol", (_ImpatientProtocol,), timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
    )
    return _HttpServer(config)


class _HttpServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are for the whole process, not for this door."""
        yield


class _Joining:
    """A transport that sends what is written in one turn of the event loop at once.

    Else an answer's head and its body would be two system calls and two packets.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def _flush(self) -> None:
        if self._written:
            self._transport.write(b"".join(self._written))
            self._written.clear()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _ImpatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests have to arrive in time: a caller that stalls is hung up on."""

    receive_timeout_s: float
    _arrival: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Joining(transport, self.loop)))
        self._expect()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._arrival is None:
            self._expect()

    def on_message_complete(self) -> None:
        self._forget()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._arrival = self.loop.call_later(self.receive_timeout_s, self.transport.close)

    def _forget(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None
