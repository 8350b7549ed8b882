"""Whether a caller is still there, for ASGI servers that tell only those who ask.

pyvoy says `http.disconnect` to whoever waits in `receive` while a request is still arriving. Once
it has arrived, `receive` answers at once: with nothing as long as the caller is there. So it is
asked again and again then, but ever less often: most steps are answered before the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serving.rest.api import Message, Receive

FIRST_LOOK_S, LAST_LOOK_S = 0.05, 1.0


class Left(Exception):  # noqa: N818 - callers do leave
    """The caller has left before its request had arrived."""


class Presence:
    """The body of one request, piece by piece, and who sends it.

    Args:
        leave: called once, when the caller is found to have left.
    """

    def __init__(self, receive: Receive, leave: Callable[[], None]) -> None:
        self._receive, self._leave = receive, leave
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Future[Message] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._ended = self._stopped = False
        self._look_s = FIRST_LOOK_S
        self._ask()

    async def receive(self) -> bytes | None:
        """The next piece; None after the last. Raises: Left"""
        if self._ended:
            return None
        assert self._next is not None
        if not self._next.done():
            # Not on the server's own future: whoever waits here may be cancelled, and that not.
            self._waiter = self._loop.create_future()
            await self._waiter
        message = self._next.result()
        if message["type"] == "http.disconnect":
            raise Left
        if message.get("more_body", False):
            self._ask()
        else:
            self._ended, self._next = True, None
            self._look_later()
        body: bytes = message.get("body", b"")
        return body if body or not self._ended else None

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _ask(self) -> None:
        self._next = asyncio.ensure_future(self._receive())
        self._next.add_done_callback(self._told)

    def _told(self, told: asyncio.Future[Message]) -> None:
        if self._stopped or told.cancelled() or told.exception():
            return
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if told.result()["type"] == "http.disconnect":
            self._leave()
        elif self._ended:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(self._look_s, self._ask)
        self._look_s = min(2 * self._look_s, LAST_LOOK_S)
