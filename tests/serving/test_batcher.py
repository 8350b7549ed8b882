"""Micro-batching: one turn of the loop, one run; caps, deadlines and cancellations."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from serving.agent_model import AgentModel, Row
from serving.batcher import Batcher
from serving.errors import DeadlineExceeded, InvalidRequest, Overloaded
from serving.repository import load_model
from tests.artifacts import Policy, Step

FAR = float("inf")


@pytest.fixture
def counted(models: Path) -> tuple[AgentModel, list[int]]:
    """A model, and the sizes of its runs."""
    model = load_model(models / "tiny" / "1")
    sizes: list[int] = []
    step = model.step

    def counting(rows: list[Row]) -> object:
        sizes.append(len(rows))
        return step(rows)

    model.step = counting  # type: ignore[method-assign, assignment]
    return model, sizes


def some_rows(policy: Policy, n: int) -> list[Row]:
    random = np.random.default_rng(5)
    steps = [Step(policy.dims, random) for _ in range(n)]
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


async def test_rows_of_one_turn_share_a_run(
    counted: tuple[AgentModel, list[int]], policy: Policy
) -> None:
    model, sizes = counted
    batcher = Batcher(model, max_rows=512, max_queue=100)
    rows = some_rows(policy, 20)
    alone = model.step(rows)
    sizes.clear()
    together = await asyncio.gather(*[batcher.submit(row, FAR) for row in rows])
    assert together == alone
    assert sizes == [20]
    for row in rows[:3]:
        await batcher.submit(row, FAR)
    assert sizes == [20, 1, 1, 1]


async def test_a_run_has_at_most_so_many_rows(
    counted: tuple[AgentModel, list[int]], policy: Policy
) -> None:
    model, sizes = counted
    batcher = Batcher(model, max_rows=8, max_queue=100)
    await asyncio.gather(*[batcher.submit(row, FAR) for row in some_rows(policy, 20)])
    assert sizes == [8, 8, 4]


async def test_a_full_queue_refuses_at_once_and_recovers(
    counted: tuple[AgentModel, list[int]], policy: Policy
) -> None:
    model, sizes = counted
    batcher = Batcher(model, max_rows=8, max_queue=3)
    rows = some_rows(policy, 4)
    waiting = [batcher.submit(row, FAR) for row in rows[:3]]
    with pytest.raises(Overloaded, match="3 steps are waiting"):
        batcher.submit(rows[3], FAR)
    await asyncio.gather(*waiting)
    await batcher.submit(rows[3], FAR)
    assert sizes == [3, 1]


async def test_what_nobody_waits_for_is_not_run(
    counted: tuple[AgentModel, list[int]], policy: Policy
) -> None:
    model, sizes = counted
    batcher = Batcher(model, max_rows=8, max_queue=10)
    rows = some_rows(policy, 4)
    now = time.monotonic()
    late = batcher.submit(rows[0], now - 1)
    gone = batcher.submit(rows[1], FAR)
    kept = batcher.submit(rows[2], now + 60)
    gone.cancel()
    assert (await kept).action >= 0
    with pytest.raises(DeadlineExceeded):
        await late
    assert sizes == [1]
    alone = batcher.submit(rows[3], FAR)
    alone.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sizes == [1]


async def test_a_bad_row_fails_alone(counted: tuple[AgentModel, list[int]], policy: Policy) -> None:
    model, _ = counted
    batcher = Batcher(model, max_rows=8, max_queue=10)
    rows = some_rows(policy, 3)
    rows[1] = rows[1]._replace(obs=np.full(7, np.nan, "<f4").tobytes())
    first, second, third = [batcher.submit(row, FAR) for row in rows]
    assert [await first, await third] == model.step([rows[0], rows[2]])
    with pytest.raises(InvalidRequest, match=r"obs\[0\]") as caught:
        await second
    assert caught.value.field == "obs"


async def test_a_failing_run_fails_its_rows_and_nothing_else(
    counted: tuple[AgentModel, list[int]], policy: Policy
) -> None:
    model, _ = counted
    step = model.step
    batcher = Batcher(model, max_rows=8, max_queue=10)

    def broken(rows: object) -> object:
        raise RuntimeError("engine")

    model.step = broken  # type: ignore[method-assign, assignment]
    futures = [batcher.submit(row, FAR) for row in some_rows(policy, 2)]
    for future in futures:
        with pytest.raises(RuntimeError, match="engine"):
            await future
    model.step = step  # type: ignore[method-assign]
    assert (await batcher.submit(some_rows(policy, 1)[0], FAR)).action >= 0
