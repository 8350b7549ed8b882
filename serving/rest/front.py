"""What stands before the REST door: a request id for every request, and who may go in."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from serving.access.entry import Access
from serving.request_ids import HEADER, begin_request, traceparent
from serving.rest.api import Message, Receive, Scope, Send, refuse
from serving.rest.inference import is_inference, refuse_inference
from serving.settings import Role

logger = logging.getLogger(__name__)

Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
_ID = HEADER.encode()


def role_for(path: str) -> Role | None:
    """The role that a path needs; None for the probes. What is not known needs the most that
    reading it could be worth."""
    if path in _OPEN:
        return None
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    if first in ("agents", "act", "sessions") or (first == "v2" and path.endswith("/infer")):
        return "act"
    return "admin" if first == "admin" else "observe"


class RestFront:
    """The ASGI application in front of another.

    Args:
        needs: the role that a path needs; None: nobody has to say who they are.
        count: told of each step that is refused.
        traced: whether to note what trace a request belongs to.
    """

    def __init__(
        self,
        app: Application,
        access: Access | None,
        needs: Callable[[str], Role | None] = role_for,
        count: Callable[[Exception], None] = lambda _: None,
        traced: bool = False,
    ) -> None:
        self._app, self._access, self._traced = app, access, traced
        self._needs, self._count = needs, count
        self._tells = logger.isEnabledFor(logging.DEBUG)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = (_ID, begin_request(_header(scope["headers"], _ID)).encode())
        if self._traced:
            traceparent.set(_header(scope["headers"], b"traceparent").decode("latin-1"))
        start, status = time.monotonic(), 0

        def answer(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], answered]
            return send(message)

        try:
            if self._access is not None:
                self._admit(self._access, scope)
        except Exception as error:
            if self._needs(scope["path"]) == "act":
                self._count(error)
            words = refuse_inference if is_inference(scope["path"]) else refuse
            await words(answer, error)
        else:
            await self._app(scope, receive, answer)
        if self._tells:
            logger.debug("request: %s, %d, %.6f s", self._needs(scope["path"]) or "probe", status,
                         time.monotonic() - start)  # fmt: skip

    def _admit(self, access: Access, scope: Scope) -> None:
        """Raises: NotAuthenticated, NotAllowed, RateLimited"""
        role = self._needs(scope["path"])
        if role is not None:
            access.admit(
                _token(scope["headers"]), scope.get("state", {}).get("certificate", ""), role
            )


def _token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    scheme, _, token = _header(headers, b"authorization").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return _header(headers, b"x-api-key").decode("latin-1")


def _header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    for name, value in headers:
        if name == wanted:
            return value
    return b""
