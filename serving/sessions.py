"""Held memory for callers without a stream: episodes by session id, forgotten when left alone."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from serving.errors import Overloaded, SessionNotFound
from serving.service import Episode


class Sessions:
    """At most `cap` episodes; one that has not been asked for in `ttl_s` seconds is forgotten."""

    def __init__(self, cap: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cap = cap
        self.ttl_s = ttl_s
        self._clock = clock
        # In order of last use, so that the expired ones are always at the front.
        self._episodes: OrderedDict[str, tuple[Episode, float]] = OrderedDict()

    def __len__(self) -> int:
        self._expire()
        return len(self._episodes)

    def open(self, episode: Episode) -> str:
        """Hold an episode; returns the session's id, which is its only key.

        Raises:
            Overloaded: there are as many sessions as there may be.
        """
        self._expire()
        if len(self._episodes) >= self._cap:
            raise Overloaded(
                f"{self._cap} sessions are open, which is the limit", self._seconds_to_next()
            )
        session = secrets.token_urlsafe(16)
        self._episodes[session] = (episode, self._clock())
        return session

    def get(self, session: str) -> Episode:
        """The episode, whose time starts anew. Raises: SessionNotFound"""
        self._expire()
        found = self._episodes.get(session)
        if found is None:
            raise SessionNotFound("no such session: never opened, closed, or expired")
        self._episodes[session] = (found[0], self._clock())
        self._episodes.move_to_end(session)
        return found[0]

    def replace(self, session: str, episode: Episode) -> None:
        """Let the session go on with another episode. Raises: SessionNotFound"""
        self.get(session)
        self._episodes[session] = (episode, self._clock())

    def close(self, session: str) -> None:
        """Forget the session. Raises: SessionNotFound"""
        self.get(session)
        del self._episodes[session]

    def _expire(self) -> None:
        limit = self._clock() - self.ttl_s
        while self._episodes:
            session, (_, last_used) = next(iter(self._episodes.items()))
            if last_used > limit:
                break
            del self._episodes[session]

    def _seconds_to_next(self) -> int:
        """When a place will be free at the latest, unless its session is used again."""
        _, last_used = next(iter(self._episodes.values()))
        return max(1, int(last_used + self.ttl_s - self._clock()) + 1)
