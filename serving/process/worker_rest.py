"""What a worker's REST door does beyond one process' door.

A session lives in the worker that opened it, and its id begins with that worker's number. A request
about it may arrive at any worker, because the kernel spreads connections: it is handed to the right
one, whose answer goes back as it is. `/metrics` is everybody's, and the probes say who answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from serving import errors
from serving.process.peers import Peers
from serving.process.worker_metrics import WorkerMetrics
from serving.request_ids import begin_request, request_id, traceparent
from serving.rest.api import JSON, Headers, Message, Receive, RestApi, Scope, Send, refuse

_SCRAPE_S = 2.0
_PROBES = {"/livez": "alive", "/readyz": "ready"}


class Handed(msgspec.Struct, array_like=True, tag=True):
    """A request for a session that another worker holds. Its caller has been let in."""

    method: str
    path: str
    body: bytes
    client: tuple[str, int] | None
    request_id: str
    traceparent: str


class Scrape(msgspec.Struct, array_like=True, tag=True):
    """Asks for a worker's metrics."""


class Answer(msgspec.Struct, array_like=True):
    """What a request was answered with."""

    status: int
    headers: Headers
    body: bytes


class _Peek(msgspec.Struct):
    session: Any = None


_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(Handed | Scrape).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_peek = msgspec.json.Decoder(_Peek).decode


App = Callable[[Scope, Receive, Send], Awaitable[None]]


class WorkerRest:
    """The ASGI application in front of a worker's others.

    Args:
        inner: answers what is this worker's to answer.
        api: what counts errors, and knows whether the service is ready.
        number: this worker's, from 1.
        n_workers: how many there are.
        folder: the workers' own.
        timeout_s: how long another worker may take to answer.
    """

    def __init__(
        self,
        inner: App,
        api: RestApi,
        metrics: WorkerMetrics,
        number: int,
        n_workers: int,
        folder: Path,
        max_body_bytes: int,
        timeout_s: float,
    ) -> None:
        self._inner, self._api, self._metrics = inner, api, metrics
        self._number, self._n_workers = number, n_workers
        self._peers = Peers(folder)
        self._max_body_bytes, self._timeout_s = max_body_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if scope.get("method") == "GET" and path in _PROBES:
            await self._probe(path, send)
        elif scope.get("method") == "GET" and path == "/metrics":
            await self._show_metrics(scope, send)
        elif path.startswith("/sessions/"):
            await self._hand_over(path.split("/")[2], [], scope, receive, send)
        elif path.startswith("/agents/") and path.endswith("/act"):
            messages = await self._read(receive)
            await self._hand_over(_session(_body(messages)), messages, scope, receive, send)
        else:
            await self._inner(scope, receive, send)

    async def answer(self, question: bytes) -> bytes:
        """What another worker asked for."""
        asked = _decode_question(question)
        if isinstance(asked, Scrape):
            return self._metrics.snapshot()
        begin_request(asked.request_id.encode())
        traceparent.set(asked.traceparent)
        scope = {
            "type": "http",
            "method": asked.method,
            "path": asked.path,
            "query_string": b"",
            "headers": [],
            "client": asked.client,
        }
        answer = Answer(500, [], b"")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], list(message["headers"])
            else:
                answer.body += message.get("body", b"")

        await self._inner(scope, _replay([_whole(asked.body)], _nothing_more), send)
        return _encode(answer)

    async def _hand_over(
        self, session: str, messages: list[Message], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let whoever holds the session answer; messages are what has been read already."""
        holder = self._holder(session)
        if holder == self._number:
            await self._inner(scope, _replay(messages, receive), send)
            return
        messages = messages or await self._read(receive)
        if not _is_whole(messages):  # too large, or the caller has left: there is nothing to hand
            await self._inner(scope, _replay(messages, receive), send)
            return
        client = scope.get("client")
        handed = Handed(
            scope["method"],
            scope["path"],
            _body(messages),
            (client[0], client[1]) if client else None,
            request_id.get(),
            traceparent.get(),
        )
        try:
            answered = await self._peers.ask(holder, _encode(handed), self._timeout_s)
        except TimeoutError:
            late = errors.DeadlineExceeded("the worker that holds the session does not answer")
            await self._refuse(late, send)
        except OSError:
            gone = errors.SessionNotFound("no such session: it has ended with its worker")
            stopping = errors.ShuttingDown("the server is shutting down")
            await self._refuse(gone if self._api.ready else stopping, send)
        else:
            answer = _decode_answer(answered)
            await _respond(send, answer.status, answer.headers, answer.body)

    async def _refuse(self, error: errors.ServingError, send: Send) -> None:
        self._api.count_error(error)
        await refuse(send, error)

    def _holder(self, session: str) -> int:
        """The number of the worker whose session it is; this one's where it is nobody's."""
        number = session.partition(".")[0]
        if number.isascii() and number.isdecimal() and len(number) < 4:
            found = int(number)
            return found if 1 <= found <= self._n_workers else self._number
        return self._number

    async def _read(self, receive: Receive) -> list[Message]:
        """The request's messages, until all of it is there or more than may be."""
        messages: list[Message] = []
        room = self._max_body_bytes
        while not messages or (messages[-1].get("more_body") and room >= 0):
            messages.append(await receive())
            room -= len(messages[-1].get("body", b""))
        return messages

    async def _probe(self, path: str, send: Send) -> None:
        up = path == "/livez" or self._api.ready
        state = {"status": _PROBES[path] if up else "not ready", "worker": str(self._number)}
        body = json.dumps(state, separators=(",", ":")).encode()
        await _send(send, 200 if up else 503, JSON, body)

    async def _show_metrics(self, scope: Scope, send: Send) -> None:
        others = [it for it in range(1, self._n_workers + 1) if it != self._number]
        answers = await asyncio.gather(
            *[self._peers.ask(it, _encode(Scrape()), _SCRAPE_S) for it in others],
            return_exceptions=True,
        )
        snapshots = {self._number: self._metrics.snapshot()}
        for number, answer in zip(others, answers, strict=True):
            if isinstance(answer, bytes):
                snapshots[number] = answer
            elif not isinstance(answer, OSError):  # TimeoutError is one, too
                raise answer
        headers = dict(scope["headers"])
        accept = headers.get(b"accept", b"").decode("latin-1")
        body, content_type = self._metrics.page(snapshots, self._n_workers, accept)
        await _send(send, 200, content_type, body)


async def _respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send(send: Send, status: int, content_type: str, body: bytes) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
    await _respond(send, status, headers, body)


def _session(body: bytes) -> str:
    """The session that a step names; empty where it names none, or is none."""
    # Most steps carry their memory, and their numbers need not be read twice to see it; but
    # JSON can spell a name with escapes.
    if b'"session"' not in body and b"\\" not in body:
        return ""
    try:
        session = _peek(body).session
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    return session if isinstance(session, str) else ""


def _body(messages: list[Message]) -> bytes:
    return b"".join(message.get("body", b"") for message in messages)


def _is_whole(messages: list[Message]) -> bool:
    last = messages[-1]
    return last["type"] == "http.request" and not last.get("more_body", False)


def _whole(body: bytes) -> Message:
    return {"type": "http.request", "body": body, "more_body": False}


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """A `receive` that gives these messages first."""
    waiting = list(reversed(messages))

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}
