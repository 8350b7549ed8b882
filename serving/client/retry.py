"""How often, how soon and where a client tries again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

# What may be otherwise in a moment, or elsewhere: gRPC's codes, HTTP's numbers, and no answer.
RETRIED = frozenset(
    {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNREACHABLE"}
    | {"429", "502", "503", "504"}
)


@dataclass(frozen=True)
class Retry:
    """A step is tried again after a failure that may pass, within the step's time limit.

    The waits double from `first_wait_s` to `longest_wait_s`, each shortened by up to half at
    random, so that many units that lost one server do not come back as one.
    """

    tries: int = 10
    """Of one step, the first one included."""
    first_wait_s: float = 0.05
    longest_wait_s: float = 2.0
    elsewhere: tuple[str, ...] = ()
    """Addresses of the same policy at other replicas, through the same kind of door; a failed try
    is followed by one at the next address. With sealed memory they need the same keys."""

    def waits(self) -> Iterator[float]:
        """Seconds before each further try; ends when there is none."""
        for number in range(self.tries - 1):
            longest = min(self.longest_wait_s, self.first_wait_s * 2 ** min(number, 32))
            yield longest * random.uniform(0.5, 1)
