"""Micro-batching without delay: the rows that arrived in one turn of the event loop share a run."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NamedTuple

from serving.agent_model import AgentModel, BadRow, Row, StepResult
from serving.errors import DeadlineExceeded, InvalidRequest, Overloaded
from serving.metrics import ModelMetrics


class _Waiting(NamedTuple):
    row: Row
    deadline: float
    answer: asyncio.Future[StepResult]


class Batcher:
    """The queue before one model.

    The first row of a turn asks the event loop for a flush at the turn's end. There is no timer:
    a row that comes alone runs at once, and the more come together, the larger the runs. While a
    run computes nothing else moves, so one model never runs twice at a time.
    """

    def __init__(self, model: AgentModel, max_rows: int, max_queue: int) -> None:
        self._model = model
        self._max_rows = max_rows
        self._max_queue = max_queue
        self._queue: deque[_Waiting] = deque()
        self._loop = asyncio.get_running_loop()
        self.metrics = ModelMetrics(model, self._queue.__len__)

    def submit(self, row: Row, deadline: float) -> asyncio.Future[StepResult]:
        """Queue a row; the future brings its result, InvalidRequest or DeadlineExceeded.

        A row whose future is cancelled before its turn is not run.

        Args:
            deadline: by `time.monotonic`; a row still waiting then is not run.

        Raises:
            Overloaded: the queue is full.
        """
        if len(self._queue) >= self._max_queue:
            raise Overloaded(f"{self._max_queue} steps are waiting already, which is the limit")
        if not self._queue:
            self._loop.call_soon(self._flush)
        answer: asyncio.Future[StepResult] = self._loop.create_future()
        self._queue.append(_Waiting(row, deadline, answer))
        return answer

    def _flush(self) -> None:
        batch = self._take()
        if self._queue:
            self._loop.call_soon(self._flush)
        if not batch:
            return
        start = time.monotonic()
        try:
            results = self._model.step([waiting.row for waiting in batch])
        except Exception as error:  # whatever it is, somebody waits for each of these
            for waiting in batch:
                waiting.answer.set_exception(error)
            return
        self.metrics.seconds.observe(time.monotonic() - start)
        self.metrics.rows.observe(len(batch))
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, BadRow):
                waiting.answer.set_exception(InvalidRequest(result.field, result.message))
            else:
                waiting.answer.set_result(result)

    def _take(self) -> list[_Waiting]:
        """The next rows that somebody still waits for."""
        now = time.monotonic()  # the event loop's own clock may tick in whole milliseconds
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._max_rows:
            waiting = self._queue.popleft()
            if waiting.answer.done():
                continue
            if waiting.deadline < now:
                waiting.answer.set_exception(
                    DeadlineExceeded("the step waited longer than it was given")
                )
                continue
            batch.append(waiting)
        return batch
