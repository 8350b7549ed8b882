"""gRPC over an ASGI server that speaks HTTP/2 and sends trailers.

`AsgiServer` takes handlers as `grpc.aio.Server` does, so that one set of them serves both. It is
the ASGI application of the calls; framing, deadlines, statuses and cancellation are done here
(gRPC's "PROTOCOL-HTTP2.md" is what they follow).

A message on the wire is a byte that says whether it is compressed, its length as four bytes,
most significant first, and its bytes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import logging
import re
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import quote

import grpc

from serving.process.asgi_presence import Left, Presence
from serving.process.envoy_front import ARRIVED
from serving.rest.api import Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

_HEAD = struct.Struct(">BI")
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_WINDOW = {"gzip": 31, "deflate": 15}
"""The encodings that are read, as zlib names them."""
_GRPC = re.compile(r"application/grpc([+;].*)?")
_CLOSING = "the server is shutting down"
_FLUSH_S = 0.05
"""What the server under this one gets to write the last answers."""

Metadata = Sequence[tuple[str, str | bytes]]
Headers = list[tuple[bytes, bytes]]


def is_grpc(scope: Scope) -> bool:
    """Whether a request is a gRPC call."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            return _GRPC.fullmatch(value.decode("latin-1")) is not None
    return False


class _Ended(Exception):  # noqa: N818 - it is no error of this program's
    """The call ends with a status that is not OK."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class AsgiServer:
    """The calls of one event loop.

    Args:
        max_message_bytes: the largest message that is read.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._generic: list[Any] = []
        self._handlers: dict[str, Any] = {}
        self._calls: set[_Call] = set()
        self._stopping = False

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self._generic.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def start(self) -> None:
        """Nothing: whoever serves this application listens."""

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, and end those that are left when the grace is over."""
        self._stopping = True
        deadline = asyncio.get_running_loop().time() + grace_s
        while self._calls and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        for call in list(self._calls):
            call.end_early(grpc.StatusCode.UNAVAILABLE, _CLOSING)
        await asyncio.sleep(_FLUSH_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = _Call(scope, receive, send, self._max_message_bytes)
        self._calls.add(call)
        try:
            await call.answer(self._find)
        finally:
            self._calls.discard(call)

    def _find(self, path: str) -> Any:
        """The handler of a method. Raises: _Ended"""
        if self._stopping:
            raise _Ended(grpc.StatusCode.UNAVAILABLE, _CLOSING)
        found = self._handlers.get(path)
        if found is None:
            for generic in self._generic:
                found = generic.service(_CallDetails(path))
                if found is not None:
                    self._handlers[path] = found
                    break
            else:
                raise _Ended(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return found


class _CallDetails(grpc.HandlerCallDetails):
    def __init__(self, method: str) -> None:
        self.method, self.invocation_metadata = method, ()


class _Call:
    """One call, which is its handler's context: what handlers use of `grpc.aio.ServicerContext`."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_bytes: int) -> None:
        self._scope, self._send = scope, send
        self._loop = asyncio.get_running_loop()
        self._max_bytes = max_bytes
        self._presence = Presence(receive, self._leave)
        self._arrived = bytearray()
        self._trailing: Metadata = ()
        self._handler: Any = None
        self._started = self._wrote_last = False
        self._sending: asyncio.Future[None] | None = None
        self._gone = False
        self._early: _Ended | None = None
        self._headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]]
        self._deadline: float | None = None
        task = asyncio.current_task()
        assert task is not None
        self._task = task

    async def answer(self, find: Callable[[str], Any]) -> None:
        """Find the handler and run it, and end the call with its status. Raises nothing."""
        timer = None
        try:
            self._begin(find)
            if self._deadline is not None:
                timer = self._loop.call_at(
                    self._deadline,
                    self.end_early,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    "Deadline Exceeded",
                )
            await self._run()
            code, text = grpc.StatusCode.OK, ""
        except _Ended as ended:
            code, text = ended.code, ended.text
        except asyncio.CancelledError:
            early = self._early or _Ended(grpc.StatusCode.CANCELLED, "cancelled")
            code, text = early.code, early.text
        except Exception as error:
            code, text = grpc.StatusCode.INTERNAL, "internal error"
            if not self._gone:
                logger.error("call failed", exc_info=error)
        finally:
            if timer is not None:
                timer.cancel()
            self._presence.stop()
        if not self._gone:
            with contextlib.suppress(Exception):  # pyvoy's own, if the caller has just left
                await self._end(code, text)

    def end_early(self, code: grpc.StatusCode, text: str) -> None:
        """Stop the handler; the call ends with this status."""
        if not self._task.done() and self._early is None:
            self._early = _Ended(code, text)
            self._task.cancel()

    def _begin(self, find: Callable[[str], Any]) -> None:
        """Raises: _Ended, if the call cannot be served."""
        given = dict(self._headers)
        if (timeout := given.get("grpc-timeout")) is not None:
            found = _TIMEOUT.fullmatch(timeout)
            if found is None:
                raise _Ended(grpc.StatusCode.INTERNAL, "grpc-timeout is not a time")
            self._deadline = self._loop.time() + int(found[1]) * _UNITS[found[2]]
            if (arrived := given.get(ARRIVED)) is not None:
                # It may have waited for the event loop since.
                self._deadline -= max(0.0, time.time() - float(arrived))
        self._handler = find(self._scope["path"])
        if given.get("te") != "trailers":
            raise _Ended(grpc.StatusCode.INTERNAL, "a call needs the header te: trailers")

    async def _run(self) -> None:
        handler = self._handler
        if handler.request_streaming:
            given: Any = self._messages()
        else:
            given = await self.read()
            if given is grpc.aio.EOF:
                raise _Ended(grpc.StatusCode.INTERNAL, "the call has no message")
        if not handler.response_streaming:
            await self._write_last(await (handler.stream_unary or handler.unary_unary)(given, self))
            return
        answers = (handler.stream_stream or handler.unary_stream)(given, self)
        if inspect.isasyncgen(answers):
            async for answer in answers:
                await self.write(answer)
        else:
            await answers

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    # What handlers call

    async def read(self) -> Any:
        """The next message; grpc.aio.EOF at the end of them."""
        while True:
            if (data := self._next_frame()) is not None:
                read = self._handler.request_deserializer
                return data if read is None else read(data)
            try:
                piece = await self._presence.receive()
            except Left:
                raise asyncio.CancelledError from None
            if piece is None:
                if self._arrived:
                    self._give_up(grpc.StatusCode.INTERNAL, "the last message is cut short")
                return grpc.aio.EOF
            self._arrived += piece

    async def write(self, message: Any) -> None:
        """Send a message; waits until the one before has gone out, so that a caller who does not
        read holds the handler up."""
        if self._sending is not None:
            await self._sending
        elif not self._started:
            await self._start()
        body = {"type": "http.response.body", "body": self._frame(message), "more_body": True}
        self._sending = asyncio.ensure_future(self._send(body))
        self._sending.add_done_callback(_look)

    async def abort(self, code: grpc.StatusCode, details: str = "",
                    trailing_metadata: Metadata = ()) -> NoReturn:  # fmt: skip
        """End the call."""
        if trailing_metadata:
            self._trailing = trailing_metadata
        raise _Ended(code, details)

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = metadata

    def invocation_metadata(self) -> Metadata:
        return self._headers

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def peer(self) -> str:
        host, port = self._scope["client"] or ("", 0)
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        shown = self._scope.get("state", {}).get("certificate", "")
        return {"x509_common_name": [shown.encode()]} if shown else {}

    def cancelled(self) -> bool:
        """Whether the call is over, because its caller left or its time did."""
        return self._gone or self._early is not None

    # The wire

    def _leave(self) -> None:
        """The caller has left: nobody reads what the handler would still say."""
        self._gone = True
        if not self._task.done():
            self._task.cancel()

    def _give_up(self, code: grpc.StatusCode, text: str) -> NoReturn:
        """The call cannot go on: its handler sees it as cancelled, as it does with grpcio."""
        self._early = _Ended(code, text)
        raise asyncio.CancelledError

    def _next_frame(self) -> bytes | None:
        """The next whole message of what has arrived."""
        arrived = self._arrived
        if len(arrived) < _HEAD.size:
            return None
        compressed, size = _HEAD.unpack_from(arrived)
        if size > self._max_bytes:
            self._give_up(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the message has {size} bytes; the limit is {self._max_bytes}",
            )
        end = _HEAD.size + size
        if len(arrived) < end:
            return None
        data = bytes(arrived[_HEAD.size : end])
        del arrived[:end]
        return self._inflate(data) if compressed else data

    def _inflate(self, data: bytes) -> bytes:
        kind = dict(self._headers).get("grpc-encoding", "identity")
        if kind == "identity":
            self._give_up(
                grpc.StatusCode.INTERNAL, "Compression bit set but no encoding configured"
            )
        if kind not in _WINDOW:
            self._give_up(
                grpc.StatusCode.UNIMPLEMENTED, "messages may be compressed by deflate and gzip"
            )
        inflater = zlib.decompressobj(_WINDOW[kind])
        try:
            # One byte more than is allowed shows that it would be too much: no more is unpacked.
            inflated = inflater.decompress(data, self._max_bytes + 1)
        except zlib.error:
            self._give_up(grpc.StatusCode.INTERNAL, f"the message is not compressed by {kind}")
        if len(inflated) > self._max_bytes:
            self._give_up(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the message has more bytes than the limit, which is {self._max_bytes}",
            )
        if not inflater.eof:
            self._give_up(grpc.StatusCode.INTERNAL, f"the message is not compressed by {kind}")
        return inflated

    def _frame(self, message: Any) -> bytes:
        encode = self._handler.response_serializer
        data: bytes = message if encode is None else encode(message)
        return _HEAD.pack(0, len(data)) + data

    async def _write_last(self, message: Any) -> None:
        frame = self._frame(message)
        await self._start()
        await self._send({"type": "http.response.body", "body": frame})
        self._wrote_last = True

    async def _start(self) -> None:
        self._started = True
        await self._send(_start([], trailers=True))

    async def _end(self, code: grpc.StatusCode, text: str) -> None:
        trailers = _trailers(code, text, self._trailing)
        if not self._started:  # then they are the headers, and all there is
            await self._send(_start(trailers, trailers=False))
            await self._send({"type": "http.response.body", "body": b""})
            return
        if not self._wrote_last:
            await self._send({"type": "http.response.body", "body": b""})
        await self._send({"type": "http.response.trailers", "headers": trailers})


def _start(more: Headers, trailers: bool) -> Message:
    headers = [
        (b"content-type", b"application/grpc"),
        (b"grpc-accept-encoding", b"identity, deflate, gzip"),
    ]
    headers += more
    return {"type": "http.response.start", "status": 200, "headers": headers, "trailers": trailers}


def _trailers(code: grpc.StatusCode, text: str, metadata: Metadata) -> Headers:
    trailers: Headers = [(b"grpc-status", b"%d" % code.value[0])]
    if text:
        trailers.append((b"grpc-message", quote(text, safe=_PRINTABLE).encode()))
    for name, value in metadata:
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode()
        trailers.append((name.encode(), value.encode()))
    return trailers


def _look(sent: asyncio.Future[None]) -> None:
    """An answer that nobody was there to take is no error of this program's."""
    if not sent.cancelled():
        sent.exception()
