"""Held memory for callers without a stream: episodes by session id, forgotten when left alone."""

from __future__ import annotations

import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from serving.errors import Overloaded, SessionNotFound
from serving.steps.service import Episode


class _Session(NamedTuple):
    episode: Episode
    last_used: float
    client: str


class Sessions:
    """At most `cap` episodes, `client_cap` of one client; one that has not been asked for in
    `ttl_s` seconds is forgotten.

    A full store refuses and never pushes out: whoever floods it must not cost others their memory.
    """

    def __init__(
        self,
        cap: int,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
        client_cap: int | None = None,
        prefix: str = "",
    ) -> None:
        """With this at the beginning of each session's id."""
        self._prefix = prefix
        self._cap = cap
        self._client_cap = cap if client_cap is None else client_cap
        self.ttl_s = ttl_s
        self._clock = clock
        # In order of last use, so that the expired ones are always at the front.
        self._sessions: OrderedDict[Hashable, _Session] = OrderedDict()
        self._by_client: Counter[str] = Counter()

    def __len__(self) -> int:
        self.expire()
        return len(self._sessions)

    def __contains__(self, key: Hashable) -> bool:
        self.expire()
        return key in self._sessions

    def open(self, episode: Episode, client: str = "") -> str:
        """Hold an episode; returns the session's id, which is its only key.

        Args:
            client: whoever counts as one for `client_cap`.

        Raises:
            Overloaded: there are as many sessions as there may be, or as the client may have.
        """
        session = self._prefix + secrets.token_urlsafe(16)
        self.put(session, episode, client)
        return session

    def put(self, key: Hashable, episode: Episode, client: str = "") -> None:
        """Hold an episode under a key that the caller has chosen, instead of what is there.

        Raises:
            Overloaded: as `open`.
        """
        if key in self:
            self.replace(key, episode)
            return
        self.check_room(client)
        self._sessions[key] = _Session(episode, self._clock(), client)
        self._by_client[client] += 1

    def check_room(self, client: str) -> None:
        """Raises: Overloaded: this client could not open one now."""
        self.expire()
        if len(self._sessions) >= self._cap:
            raise Overloaded(
                f"{self._cap} sessions are open, which is the limit", self._seconds_to_next()
            )
        if self._by_client[client] >= self._client_cap:
            raise Overloaded(
                f"you have {self._client_cap} sessions open, which is the limit for one client"
            )

    def get(self, session: Hashable) -> Episode:
        """The episode, whose time starts anew. Raises: SessionNotFound"""
        self.expire()
        found = self._sessions.get(session)
        if found is None:
            raise SessionNotFound("no such session: never opened, closed, or expired")
        self._sessions[session] = found._replace(last_used=self._clock())
        self._sessions.move_to_end(session)
        return found.episode

    def replace(self, session: Hashable, episode: Episode) -> None:
        """Let the session go on with another episode. Raises: SessionNotFound"""
        self.get(session)
        self._sessions[session] = self._sessions[session]._replace(episode=episode)

    def close(self, session: Hashable) -> None:
        """Forget the session. Raises: SessionNotFound"""
        self.get(session)
        self._forget(session)

    def discard(self, session: Hashable) -> None:
        """Forget the session, if there is one."""
        if session in self:
            self._forget(session)

    def expire(self) -> None:
        """Forget what has been left alone; every other method does so first."""
        limit = self._clock() - self.ttl_s
        while self._sessions:
            session = next(iter(self._sessions))
            if self._sessions[session].last_used > limit:
                break
            self._forget(session)

    def _forget(self, session: Hashable) -> None:
        client = self._sessions.pop(session).client
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def _seconds_to_next(self) -> int:
        """When a place will be free at the latest, unless its session is used again."""
        first = next(iter(self._sessions.values()))
        return max(1, int(first.last_used + self.ttl_s - self._clock()) + 1)
