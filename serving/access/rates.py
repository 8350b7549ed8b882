"""How much one caller may ask for: a token bucket each."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from serving.errors import RateLimited

MAX_BUCKETS = 10_000


class Bucket:
    """Fills at `rate` a second up to `burst`; each request takes one."""

    __slots__ = ("_at", "_burst", "_clock", "_level", "_rate")

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._level, self._at = float(burst), clock()

    def take(self, n: int = 1) -> None:
        """Take n at once; more than the burst are granted from a full bucket and owed afterwards.

        Raises:
            RateLimited: there are not enough yet. Nothing is taken.
        """
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        missing = min(n, self._burst) - self._level
        if missing > 0:
            raise RateLimited(
                f"over the limit of {self._rate:g} requests a second for one caller",
                max(1, math.ceil(missing / self._rate)),
            )
        self._level -= n


class Buckets:
    """A bucket for each of the callers seen last; who is forgotten starts with a full one."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, caller: str) -> Bucket:
        bucket = self._buckets.get(caller)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[caller] = Bucket(self._rate, self._burst, self._clock)
        self._buckets.move_to_end(caller)
        return bucket
