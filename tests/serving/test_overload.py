"""The overload: what it measures and when it fails. The long form is a command,
`python -m benchmarks.overload`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.open_loop import Answer, offer, post_request
from benchmarks.overload import Figures, measure, recovery, team_request
from tests.serving.running import RunningServer

GOOD = Figures(100, 90, 0.01, 0.1, 0.2, 2.0, {200: 90, 429: 300, 0: 10})


def test_each_aim_can_be_missed() -> None:
    assert GOOD.misses() == []
    for changed, words in (
        (replace(GOOD, goodput=89), "goodput is 89% of the capacity"),
        (replace(GOOD, overload_p99_s=0.21), "the answered waited 2.1 times the bound"),
        (replace(GOOD, recovery_s=2.1), "recovery took 2.1 s"),
        (replace(GOOD, statuses={200: 1, 429: 1, 500: 1}), "statuses [500]"),
        (replace(GOOD, statuses={200: 400}), "nothing was refused: this was no overload"),
    ):
        assert changed.misses() == [words]


def test_recovery_lasts_until_the_last_that_suffers() -> None:
    fine = [Answer(10 + n / 10, 10.05 + n / 10, 200) for n in range(20)]
    assert recovery(fine, 0.1, 10.0) == 0
    late, refused = Answer(10.5, 10.71, 200), Answer(11.2, 11.3, 429)
    assert recovery([*fine, late], 0.1, 10.0) == pytest.approx(0.5)
    assert recovery([*fine, late, refused], 0.1, 10.0) == pytest.approx(1.2)


def test_requests_come_when_they_are_due(server: RunningServer) -> None:
    request = post_request(server.rest, "/agents/9/act", b"{}")
    answers = asyncio.run(offer(server.rest, request, rate=50, seconds=0.5))
    assert {answer.status for answer in answers} == {422}
    dues = sorted(answer.due for answer in answers)
    assert len(dues) == 25
    assert dues[-1] - dues[0] == pytest.approx(24 / 50)
    assert all(answer.done > answer.due for answer in answers)


def test_four_times_as_much_is_offered_and_each_answer_counted(models: Path) -> None:
    """Without a word on speed, which other programs have a say in."""
    with RunningServer(models, {"max_queue": 256, "max_batch": 8}) as running:
        request = team_request(running.rest, "tiny", 7, 5, 3)
        found = asyncio.run(measure(running.rest, request, 256, 1.5))
    assert set(found.statuses) <= {0, 200, 429}
    assert found.statuses[200] > 0
    assert sum(found.statuses.values()) == round(4 * found.capacity * 1.5)
    assert 0 < found.usual_p99_s < found.bound_s
    assert found.table().count("\n") == 8
