"""How far a run is, how much is due, and how fast it goes."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

SPEED_SECONDS = 10.0  # over which the speed is measured


@dataclass
class Counts:
    """How far a run is."""

    env_steps: int = 0
    episodes: int = 0
    gradient_steps: int = 0
    test_battles: int = 0
    tested_at: int = 0
    """Environment steps at which the last test began."""
    seconds: float = 0.0
    """Of wall-clock, those before a resume included."""


class GradientSchedule:
    """When gradient steps are due, in episodes: how many are played side by side changes nothing.

    As in PyMARL the first one is due when the replay holds a batch.
    """

    def __init__(self, steps_per_episode: float, batch_size: int) -> None:
        self._ratio = Fraction(str(steps_per_episode))  # 0.1 is a tenth, and adds up to 1
        self._first = batch_size - 1

    def due(self, episodes: int) -> int:
        """Gradient steps due once so many episodes have been played."""
        return max(0, math.floor((episodes - self._first) * self._ratio))

    def episodes_at(self, gradient_step: int) -> int:
        """The episodes at which this gradient step (the first is 1) falls due."""
        return self._first + math.ceil(gradient_step / self._ratio)


class OnceEachSchedule:
    """One gradient step for every batch of episodes: each is learned from once."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size

    def due(self, episodes: int) -> int:
        return episodes // self._batch_size

    def episodes_at(self, gradient_step: int) -> int:
        return gradient_step * self._batch_size


def crossed(interval: int, before: int, now: int) -> bool:
    """Whether a multiple of `interval` lies after `before` and not after `now`."""
    return now // interval > before // interval


class Speed:
    """The clock of one process's part of a run.

    Args:
        started: `time.monotonic()` when the process was.
        counts: of the run so far.
    """

    def __init__(self, started: float, counts: Counts) -> None:
        self._started, self._seconds_before = started, counts.seconds
        self._marks = deque([(time.monotonic(), counts.env_steps)])

    def mark(self, env_steps: int) -> None:
        """So many steps have been played by now."""
        now = time.monotonic()
        self._marks.append((now, env_steps))
        while now - self._marks[1][0] > SPEED_SECONDS:
            self._marks.popleft()

    def steps_per_second(self) -> float:
        (then, steps_then), (now, steps_now) = self._marks[0], self._marks[-1]
        return (steps_now - steps_then) / (now - then) if now > then else 0.0

    def seconds_here(self) -> float:
        """Since this process was started."""
        return time.monotonic() - self._started

    def seconds(self) -> float:
        """Of the whole run."""
        return self._seconds_before + self.seconds_here()
