"""Micro-batching: one turn of the loop, one run; caps, turns, deadlines and cancellations."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import numpy as np
import pytest

from serving.errors import Abandoned, DeadlineExceeded, Overloaded
from serving.models.agent_model import AgentModel, BadRow, Row
from serving.models.repository import load_model
from serving.steps.batcher import Batcher, Caller, Results
from tests.artifacts import Policy, Step

FAR = float("inf")
A, B, C = Caller("a"), Caller("b"), Caller("c")


@pytest.fixture
def counted(models: Path) -> tuple[AgentModel, list[list[Row]]]:
    """A model, and the rows of its runs."""
    model = load_model(models / "tiny" / "1")
    runs: list[list[Row]] = []
    step = model.step

    def counting(rows: list[Row]) -> object:
        runs.append(list(rows))
        return step(rows)

    model.step = counting  # type: ignore[method-assign, assignment]
    return model, runs


@pytest.fixture(scope="module")
def rows(policy: Policy) -> list[Row]:
    random = np.random.default_rng(5)
    steps = [Step(policy.dims, random) for _ in range(40)]
    return [
        Row(
            step.obs.tobytes(),
            bytes(step.avail_actions.tolist()),
            step.last_action,
            step.agent_id,
            step.hidden.tobytes(),
        )
        for step in steps
    ]


def sizes(runs: list[list[Row]]) -> list[int]:
    return [len(run) for run in runs]


def places(runs: list[list[Row]], rows: list[Row]) -> list[list[int]]:
    """Which of the rows each run was made of."""
    return [[rows.index(row) for row in run] for run in runs]


async def test_rows_of_one_turn_share_a_run(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, runs = counted
    batcher = Batcher(model, max_rows=512, max_queue=100)
    alone = model.step(rows[:20])
    runs.clear()
    together = await asyncio.gather(*[batcher.submit([row], A, FAR) for row in rows[:20]])
    assert [result for part in together for result in part] == alone
    assert sizes(runs) == [20]
    for row in rows[:3]:
        await batcher.submit([row], A, FAR)
    assert sizes(runs) == [20, 1, 1, 1]


async def test_a_run_has_at_most_so_many_rows(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, runs = counted
    batcher = Batcher(model, max_rows=8, max_queue=100)
    await asyncio.gather(*[batcher.submit([row], A, FAR) for row in rows[:20]])
    assert places(runs, rows) == [[*range(8)], [*range(8, 16)], [16, 17, 18, 19]]


async def test_rows_that_came_together_may_be_split_and_are_answered_in_order(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, runs = counted
    alone = model.step(rows[:12])
    runs.clear()
    batcher = Batcher(model, max_rows=5, max_queue=100)
    assert await batcher.submit(rows[:12], A, FAR) == alone
    assert sizes(runs) == [5, 5, 2]


async def test_callers_take_turns(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    """A floods with ten single rows, B sends five at once, C two: shares of six rows.

    Run 1: two each. Run 2: C has nothing left, three each. Run 3: all that A and B have left would
    be five and nothing, so A gets all of it.
    """
    model, runs = counted
    batcher = Batcher(model, max_rows=6, max_queue=100)
    waiting: list[asyncio.Future[Results]] = []
    waiting += [batcher.submit([row], A, FAR) for row in rows[:10]]
    waiting.append(batcher.submit(rows[10:15], B, FAR))
    waiting += [batcher.submit([row], C, FAR) for row in rows[15:17]]
    await asyncio.gather(*waiting)
    assert places(runs, rows) == [
        [0, 1, 10, 11, 15, 16],
        [2, 3, 4, 12, 13, 14],
        [5, 6, 7, 8, 9],
    ]


async def test_with_more_callers_than_rows_in_a_run_nobody_is_passed_over_twice(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    """Five callers with two rows each, runs of two: every first row before any second one."""
    model, runs = counted
    batcher = Batcher(model, max_rows=2, max_queue=100)
    callers = [Caller(number) for number in range(5)]
    waiting = [
        batcher.submit([rows[2 * number + turn]], caller, FAR)
        for number, caller in enumerate(callers)
        for turn in range(2)
    ]
    await asyncio.gather(*waiting)
    assert places(runs, rows) == [[0, 2], [4, 6], [8, 1], [3, 5], [7, 9]]


async def test_who_comes_after_a_flood_is_in_the_next_run(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, runs = counted
    batcher = Batcher(model, max_rows=4, max_queue=100)
    flood = [batcher.submit([row], A, FAR) for row in rows[:30]]
    await asyncio.sleep(0)  # the first run: A's alone
    late = batcher.submit([rows[30]], B, FAR)
    await late
    assert places(runs, rows)[:2] == [[0, 1, 2, 3], [4, 5, 30, 6]]
    await asyncio.gather(*flood)


async def test_a_full_queue_refuses_at_once_and_recovers(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, runs = counted
    batcher = Batcher(model, max_rows=8, max_queue=3)
    waiting = [batcher.submit([row], caller, FAR)
               for row, caller in zip(rows, (A, B, C), strict=False)]  # fmt: skip
    with pytest.raises(Overloaded, match="3 of at most 3 rows are waiting already: no room for 1"):
        batcher.submit([rows[3]], Caller("d"), FAR)
    await asyncio.gather(*waiting)
    await batcher.submit([rows[3]], A, FAR)
    assert sizes(runs) == [3, 1]


async def test_the_queue_is_counted_in_rows(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, runs = counted
    batcher = Batcher(model, max_rows=8, max_queue=10)
    waiting = batcher.submit(rows[:7], A, FAR)
    with pytest.raises(Overloaded, match=r"7 of at most 10 .* no room for 4"):
        batcher.submit(rows[7:11], B, FAR)
    fits = batcher.submit(rows[7:10], B, FAR)
    assert batcher.metrics.queued() == 10
    await asyncio.gather(waiting, fits)
    assert (sizes(runs), batcher.metrics.queued()) == ([8, 2], 0)


async def test_one_caller_fills_half_of_the_queue_two_a_third_each(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, _ = counted

    def flood(batcher: Batcher, callers: list[Caller]) -> dict[Caller, int]:
        """How many rows each gets in when all of them push, one row each in turn."""
        n = dict.fromkeys(callers, 0)
        for _ in range(40):
            for caller in callers:
                with contextlib.suppress(Overloaded):
                    waiting.append(batcher.submit([rows[0]], caller, FAR))
                    n[caller] += 1
        return n

    waiting: list[asyncio.Future[Results]] = []
    # own + 1 <= 24 - own ends at 12; own + 1 <= 24 - 2 own at 8, for both.
    batcher = Batcher(model, 8, max_queue=24)
    assert flood(batcher, [A]) == {A: 12}
    with pytest.raises(Overloaded, match=r"12 rows of this connection .* share of 24"):
        batcher.submit([rows[0]], A, FAR)
    batcher = Batcher(model, 8, max_queue=24)
    assert flood(batcher, [A, B]) == {A: 8, B: 8}
    waiting.append(batcher.submit(rows[:8], C, FAR))  # there is room for who had nothing waiting
    await asyncio.gather(*waiting)


async def test_what_nobody_waits_for_is_not_run(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, runs = counted
    batcher = Batcher(model, max_rows=8, max_queue=20)
    now = time.monotonic()
    late = batcher.submit(rows[:2], A, now - 1)
    cancelled = batcher.submit([rows[2]], A, FAR)
    kept = batcher.submit([rows[3]], A, now + 60)
    left = Caller("left")
    abandoned = batcher.submit(rows[4:6], left, FAR)
    cancelled.cancel()
    left.gone = True
    await kept
    with pytest.raises(DeadlineExceeded):
        await late
    with pytest.raises(Abandoned):
        await abandoned
    assert places(runs, rows) == [[3]]
    assert batcher.metrics.queued() == 0
    alone = batcher.submit([rows[6]], A, FAR)
    alone.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert places(runs, rows) == [[3]]


async def test_the_rest_of_what_is_cancelled_halfway_is_not_run(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, runs = counted
    batcher = Batcher(model, max_rows=4, max_queue=20)
    large = batcher.submit(rows[:10], A, FAR)
    await asyncio.sleep(0)
    large.cancel()
    await batcher.submit([rows[10]], B, FAR)
    assert places(runs, rows) == [[0, 1, 2, 3], [10]]
    assert batcher.metrics.queued() == 0


async def test_a_bad_row_does_not_touch_the_others(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, _ = counted
    batcher = Batcher(model, max_rows=8, max_queue=10)
    bad = rows[1]._replace(obs=np.full(7, np.nan, "<f4").tobytes())
    first, second = await asyncio.gather(
        batcher.submit([rows[0]], A, FAR), batcher.submit([bad, rows[2]], B, FAR)
    )
    assert [*first, second[1]] == model.step([rows[0], rows[2]])
    assert isinstance(second[0], BadRow)
    assert second[0].field == "obs"


async def test_a_failing_run_fails_its_rows_and_nothing_else(
    counted: tuple[AgentModel, list[list[Row]]], rows: list[Row]
) -> None:
    model, _ = counted
    step = model.step
    batcher = Batcher(model, max_rows=4, max_queue=20)

    def broken(_: object) -> object:
        raise RuntimeError("engine")

    model.step = broken  # type: ignore[method-assign, assignment]
    futures = [batcher.submit([rows[0]], A, FAR), batcher.submit(rows[1:8], A, FAR)]
    for future in futures:
        with pytest.raises(RuntimeError, match="engine"):
            await future
    model.step = step  # type: ignore[method-assign]
    assert await batcher.submit([rows[8]], A, FAR) == model.step([rows[8]])
    assert batcher.metrics.queued() == 0
