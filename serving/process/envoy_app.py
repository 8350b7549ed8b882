"""The step service inside Envoy: the ASGI application that pyvoy runs in Envoy's own process.

`serving.process.envoy_front` starts Envoy and holds the other end of a socket. Through it come the
settings and the word to stop; through it go the fault that keeps the service from starting, and
the word that it has ended. When the other end closes without a word, whoever started this is dead
and nobody would ever stop it: so it ends itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from typing import Any

from serving.access.entry import Access
from serving.access.tls import Tls
from serving.errors import MalformedRequest
from serving.logs import configure_logging
from serving.models.device import check_device, check_engine
from serving.process.asgi_presence import Left, Presence
from serving.process.envoy_front import SETTINGS, SOCKET, STOPPED
from serving.process.lifecycle import Doors, serve
from serving.rest.api import CALLER, Message, Receive, Scope, Send
from serving.rest.front import RestFront
from serving.rpc.api import GrpcApi
from serving.rpc.asgi import AsgiServer, is_grpc
from serving.settings import Settings, SetupError
from serving.steps.batcher import Caller
from serving.steps.service import AgentService
from serving.steps.sessions import Sessions


class EnvoyApp:
    """The ASGI application, of one process."""

    def __init__(self) -> None:
        self._settings = Settings(**json.loads(os.environ[SETTINGS]))
        self._parent = socket.socket(fileno=int(os.environ[SOCKET]))
        self._stop = asyncio.Event()
        self._calls = AsgiServer(self._settings.max_body_bytes)
        self._rest: RestFront | None = None
        self._serving: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["http_version"] == "2" and is_grpc(scope):
            await self._calls(scope, receive, send)
        else:
            assert self._rest is not None
            await _answer(self._rest, scope, receive, send, self._settings.receive_timeout_s)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        configure_logging(self._settings)
        asyncio.get_running_loop().add_reader(self._parent, self._listen_to_parent)
        opened = asyncio.Event()

        async def open_doors(
            front: RestFront,
            service: AgentService,
            sessions: Sessions,
            settings: Settings,
            access: Access | None,
            tls: Tls | None,
        ) -> Doors:
            self._rest = front
            limits = settings.max_body_bytes, settings.max_streams, settings.max_client_streams
            rpc = GrpcApi(service, sessions, "", *limits, access, asgi=self._calls)
            await rpc.start()
            opened.set()
            await _listening(settings.host, settings.http_port)
            address = f"{_bracketed(settings.host)}:{settings.http_port}"
            return Doors(
                f"http://{address}", f"grpc://{address}", rpc, lambda: rpc.stop(settings.grace_s)
            )

        async def run() -> None:
            check_engine()
            check_device(self._settings.device)
            await serve(self._settings, open_doors, self._stop)

        self._serving = asyncio.create_task(run())
        self._serving.add_done_callback(self._ended)
        opening = asyncio.create_task(opened.wait())
        await asyncio.wait([self._serving, opening], return_when=asyncio.FIRST_COMPLETED)
        if not opened.is_set():
            opening.cancel()
            await send({"type": "lifespan.startup.failed", "message": "the service did not start"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def _ended(self, serving: asyncio.Task[None]) -> None:
        error = None if serving.cancelled() else serving.exception()
        if isinstance(error, SetupError):
            words = json.dumps({"fault": error.fault, "fix": error.fix}).encode() + b"\n"
        elif error is None:
            words = STOPPED
        else:
            words = b"\n"
        with contextlib.suppress(OSError):
            self._parent.sendall(words)
        if error is not None and not isinstance(error, SetupError):
            raise error  # for the event loop to log

    def _listen_to_parent(self) -> None:
        if self._parent.recv(64):
            self._stop.set()
        else:
            os.kill(os.getpid(), signal.SIGKILL)


async def _answer(
    rest: RestFront, scope: Scope, receive: Receive, send: Send, timeout_s: float
) -> None:
    """One REST request, which has to arrive in time, and whose caller may leave."""
    caller = Caller(scope.get("client"))
    scope[CALLER] = caller

    def leave() -> None:
        caller.gone = True

    presence = Presence(receive, leave)
    deadline = asyncio.get_running_loop().time() + timeout_s

    async def next_piece() -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                piece = await presence.receive()
        except Left:
            return {"type": "http.disconnect"}
        except TimeoutError:
            raise MalformedRequest(f"the request took over {timeout_s} s to arrive") from None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    try:
        await rest(scope, next_piece, send)
    finally:
        presence.stop()


async def _listening(host: str, port: int) -> None:
    """Return when Envoy listens."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        await asyncio.sleep(0.005)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def __getattr__(name: str) -> Any:
    # Made when Envoy asks for it, and not by whoever only wants a name from this module.
    if name == "app":
        return EnvoyApp()
    raise AttributeError(name)
