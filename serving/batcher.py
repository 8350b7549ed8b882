"""Micro-batching without delay: the rows that arrived in one turn of the event loop share a run."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Sequence

from serving.agent_model import AgentModel, BadRow, Row, StepResult
from serving.errors import Abandoned, DeadlineExceeded, Overloaded
from serving.metrics import ModelMetrics

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
        self.results: Results = []

    def is_wanted(self, now: float) -> bool:
        """Whether somebody waits for it; who waits in vain is told so."""
        if self.answer.done():
            return False
        if self.caller.gone:
            self.answer.set_exception(Abandoned("the caller left before its step was run"))
        elif self.deadline < now:
            late = DeadlineExceeded("the step waited longer than it was given")
            self.answer.set_exception(late)
        return not self.answer.done()

    def add(self, results: Results) -> None:
        self.results += results
        if len(self.results) == len(self.rows) and not self.answer.done():
            self.answer.set_result(self.results)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Line:
    """What one caller has waiting, in the order it came."""

    __slots__ = ("jobs", "n_rows")

    def __init__(self) -> None:
        self.jobs: deque[_Job] = deque()
        self.n_rows = 0

    def take(self, room: int, now: float, batch: list[tuple[_Job, Sequence[Row]]]) -> int:
        """Move up to `room` rows to the batch; returns how many. A large job may go in parts."""
        before = room
        while self.jobs and room:
            job = self.jobs[0]
            left = len(job.rows) - job.n_taken
            if not job.is_wanted(now):
                self.jobs.popleft()
                self.n_rows -= left
                continue
            n = min(left, room)
            batch.append((job, job.rows[job.n_taken : job.n_taken + n]))
            job.n_taken += n
            self.n_rows -= n
            room -= n
            if n == left:
                self.jobs.popleft()
        return before - room


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
        self._lines: dict[Hashable, _Line] = {}
        """By caller, in the order of their turns; none is empty."""
        self._n_rows = 0
        self._loop = asyncio.get_running_loop()
        self.metrics = ModelMetrics(model, lambda: self._n_rows)

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
        line = self._lines.get(caller.key)
        self._check_room(len(rows), 0 if line is None else line.n_rows)
        if not self._lines:
            self._loop.call_soon(self._flush)
        if line is None:
            line = self._lines[caller.key] = _Line()
        answer: asyncio.Future[Results] = self._loop.create_future()
        line.jobs.append(_Job(rows, caller, deadline, answer))
        line.n_rows += len(rows)
        self._n_rows += len(rows)
        return answer

    def _check_room(self, n_rows: int, n_own: int) -> None:
        """Raises: Overloaded"""
        free = self._max_queue - self._n_rows
        if n_rows > free:
            raise Overloaded(
                f"{self._n_rows} of at most {self._max_queue} rows are waiting already: "
                f"no room for {n_rows}"
            )
        if n_own + n_rows > free and n_own:
            raise Overloaded(
                f"{n_own} rows of this connection are waiting already: with {n_rows} more it had "
                f"over its share of {self._max_queue}"
            )

    def _flush(self) -> None:
        batch = self._take()
        if self._lines:
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
            start_row, end = end, end + len(part)
            job.add(results[start_row:end])

    def _take(self) -> list[tuple[_Job, Sequence[Row]]]:
        """The next rows that somebody still waits for, in equal shares."""
        now = time.monotonic()  # the event loop's own clock may tick in whole milliseconds
        batch: list[tuple[_Job, Sequence[Row]]] = []
        room = self._max_rows
        while self._lines and room:
            share = max(1, room // len(self._lines))
            for key in list(self._lines):
                line = self._lines.pop(key)
                before = line.n_rows
                room -= line.take(min(share, room), now, batch)
                self._n_rows -= before - line.n_rows
                if line.jobs:
                    self._lines[key] = line  # its next turn comes after all others'
                if not room:
                    break
        return batch
