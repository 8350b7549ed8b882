"""Micro-batching without delay: the rows that arrived in one turn of the event loop share a run."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Sequence

from serving.errors import Abandoned, DeadlineExceeded, Overloaded
from serving.metrics import ModelMetrics
from serving.models.agent_model import AgentModel, BadRow, Row, StepResult

Results = list[StepResult | BadRow]


class Caller:
    """Who asks. Callers of equal key (a door gives each connection one) share one turn."""

    __slots__ = ("gone", "key")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.gone = False
        """Set when nobody is there any more to answer: what still waits is not run."""


class _Job:
    """Rows that came together, and are answered together."""

    __slots__ = ("answer", "caller", "deadline", "n_taken", "results", "rows")

    def __init__(
        self, rows: Sequence[Row], caller: Caller, deadline: float, answer: asyncio.Future[Results]
    ) -> None:
        self.rows, self.caller, self.deadline, self.answer = rows, caller, deadline, answer
        self.n_taken = 0
        self.results: Results | None = None

    def is_wanted(self, now: float) -> bool:
        """Whether somebody waits for it; who waits in vain is told so."""
        if self.answer.done():
            return False
        if self.caller.gone:
            self.answer.set_exception(Abandoned("the caller left before its step was run"))
        elif self.deadline < now:
            late = DeadlineExceeded("the step waited longer than it was given")
            self.answer.set_exception(late)
        else:
            return True
        return False

    def take(self, n: int) -> Sequence[Row]:
        """The next n rows."""
        start, self.n_taken = self.n_taken, self.n_taken + n
        return self.rows if n == len(self.rows) else self.rows[start : self.n_taken]

    def add(self, results: Results) -> None:
        """The results of what was taken, in order."""
        if self.results is not None:
            results = self.results = self.results + results
        if len(results) < len(self.rows):
            self.results = results
        elif not self.answer.done():
            self.answer.set_result(results)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


Batch = list[tuple[_Job, Sequence[Row]]]


class Batcher:
    """The queue before one model.

    The first row of a turn asks the event loop for a flush at the turn's end. There is no timer:
    a row that comes alone runs at once, and the more come together, the larger the runs. While a
    run computes nothing else moves, so one model never runs twice at a time.

    Where not all rows fit into a run, callers take turns and get equal shares of it, however much
    each has waiting. And no caller may have more rows waiting than there are places free, so that
    one alone fills half of the queue, two a third each, and there is room for whoever comes next.
    """

    def __init__(self, model: AgentModel, max_rows: int, max_queue: int) -> None:
        self._model = model
        self._max_rows = max_rows
        self._max_queue = max_queue
        self._arrived: list[_Job] = []
        """What came since the last flush, in order."""
        self._lines: dict[Hashable, deque[_Job]] = {}
        """What did not fit before, by caller, in the order of their turns; none is empty."""
        self._n_waiting: dict[Hashable, int] = {}
        """Rows of each caller that has any."""
        self._n_rows = 0
        self._loop = asyncio.get_running_loop()
        waiting = self._n_waiting
        # Without self: nothing else would let go of a model that has left, as what was there at
        # the start is not looked at by the collector.
        self.metrics = ModelMetrics(model, lambda: sum(waiting.values()))

    @property
    def n_rows(self) -> int:
        """Rows that wait."""
        return self._n_rows

    def submit(
        self, rows: Sequence[Row], caller: Caller, deadline: float
    ) -> asyncio.Future[Results]:
        """Queue rows; the future brings a result for each, Abandoned or DeadlineExceeded.

        Rows whose future is cancelled before their turn are not run.

        Args:
            rows: at least one.
            deadline: by `time.monotonic`; rows still waiting then are not run.

        Raises:
            Overloaded: the queue is full, or the caller has its share of it waiting.
        """
        n, n_own = len(rows), self._n_waiting.get(caller.key, 0)
        free = self._max_queue - self._n_rows
        if n + n_own > free and (n_own or n > free):
            raise self._refusal(n, n_own)
        if not self._n_rows:
            self._loop.call_soon(self._flush)
        answer: asyncio.Future[Results] = self._loop.create_future()
        self._arrived.append(_Job(rows, caller, deadline, answer))
        self._n_waiting[caller.key] = n_own + n
        self._n_rows += n
        return answer

    def _refusal(self, n: int, n_own: int) -> Overloaded:
        if n > self._max_queue - self._n_rows:
            return Overloaded(
                f"{self._n_rows} of at most {self._max_queue} rows are waiting already: "
                f"no room for {n}"
            )
        return Overloaded(
            f"{n_own} rows of this connection are waiting already: with {n} more it had "
            f"over its share of {self._max_queue}"
        )

    def _flush(self) -> None:
        batch = self._take_all() if self._n_rows <= self._max_rows else self._take_shares()
        if self._n_rows:
            self._loop.call_soon(self._flush)
        if not batch:
            return
        rows = batch[0][1] if len(batch) == 1 else [row for _, part in batch for row in part]
        start = time.monotonic()
        try:
            results = self._model.step(rows)
        except Exception as error:  # whatever it is, somebody waits for each of these
            for job, _ in batch:
                job.fail(error)
            return
        self.metrics.seconds.observe(time.monotonic() - start)
        self.metrics.rows.observe(len(rows))
        end = 0
        for job, part in batch:
            begin, end = end, end + len(part)
            job.add(results[begin:end])

    def _take_all(self) -> Batch:
        """Everything that somebody still waits for."""
        now = time.monotonic()  # the event loop's own clock may tick in whole milliseconds
        jobs = self._arrived
        if self._lines:
            jobs = [job for line in self._lines.values() for job in line] + jobs
        batch = [(job, job.take(len(job.rows) - job.n_taken)) for job in jobs if job.is_wanted(now)]
        self._arrived = []
        self._lines.clear()
        self._n_waiting.clear()
        self._n_rows = 0
        return batch

    def _take_shares(self) -> Batch:
        """As many rows as a run may have, an equal share of every caller's."""
        now = time.monotonic()
        for job in self._arrived:
            self._lines.setdefault(job.caller.key, deque()).append(job)
        self._arrived = []
        batch: Batch = []
        room = self._max_rows
        while self._lines and room:
            share = max(1, room // len(self._lines))
            for key in list(self._lines):
                room -= self._take_share(key, min(share, room), now, batch)
                if not room:
                    break
        return batch

    def _take_share(self, key: Hashable, room: int, now: float, batch: Batch) -> int:
        """Move up to `room` of a caller's rows to the batch; returns how many.

        A large job may go in parts. The caller's next turn comes after all others'.
        """
        line = self._lines.pop(key)
        n_taken = n_dropped = 0
        while line and n_taken < room:
            job = line[0]
            left = len(job.rows) - job.n_taken
            n = min(left, room - n_taken)
            if job.is_wanted(now):
                batch.append((job, job.take(n)))
                n_taken += n
            else:
                n_dropped += left
                n = left
            if n == left:
                line.popleft()
        self._n_rows -= n_taken + n_dropped
        if line:
            self._lines[key] = line
            self._n_waiting[key] -= n_taken + n_dropped
        else:
            del self._n_waiting[key]
        return n_taken
