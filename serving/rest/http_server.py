"""The HTTP/1.1 server under the REST door: uvicorn, with a limit on how long a request may take to
arrive, and answers that leave in one piece."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from asyncio.events import TimerHandle
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.access.tls import Tls, certificate_name
from serving.rest.api import CALLER
from serving.settings import HANDSHAKE_S, Settings
from serving.steps.batcher import Caller


def http_server(
    app: Callable[..., Any], settings: Settings, tls: Tls | None = None
) -> uvicorn.Server:
    """The server; the caller runs `serve` with a listening socket and sets `should_exit`."""
    timeout = {"receive_timeout_s": settings.receive_timeout_s}
    config = uvicorn.Config(
        app,
        http=type("_Protocol", (_ImpatientProtocol,), timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # else whoever calls from this machine could name any address
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
        ssl_context_factory=None if tls is None else lambda *_: tls.http_context(),
    )
    return _HttpServer(config)


class _HttpServer(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's for sockets, but TLS has to be agreed on in time: before that there is no
        protocol to be impatient."""
        config, loop = self.config, asyncio.get_running_loop()
        make = functools.partial(
            cast(type[HttpToolsProtocol], config.http_protocol_class),
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self.servers = [
            await loop.create_server(
                make,
                sock=listener,
                backlog=config.backlog,
                ssl=config.ssl,
                ssl_handshake_timeout=HANDSHAKE_S if config.ssl else None,
            )
            for listener in sockets or ()
        ]
        self.started = True

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
    """HTTP/1.1 whose requests have to arrive in time: a caller that stalls is hung up on.

    Requests carry the connection they came by, so that a step is not run for one that has closed.
    """

    receive_timeout_s: float
    _arrival: TimerHandle | None = None
    _arriving = False
    """Whether a request has begun and not ended."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Joining(transport, self.loop)))
        if shown := certificate_name(transport.get_extra_info("peercert")):
            self.app_state = {**self.app_state, "certificate": shown}
        self._caller = Caller(self)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Most requests arrive whole, and need no timer.
        if self._arriving and self._arrival is None:
            self._expect()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CALLER] = self._caller  # type: ignore[literal-required]
        self._arriving = True

    def on_message_complete(self) -> None:
        self._arriving = False
        self._forget()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._caller.gone = True
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._arrival = self.loop.call_later(self.receive_timeout_s, self.transport.close)

    def _forget(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None
