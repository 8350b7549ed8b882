"""The soak: what grows is found, what only comes and goes is not. The long form is a command,
`python -m benchmarks.soak`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from benchmarks.robust_slope import growth
from benchmarks.soak import Growth, Served, soak
from tests.serving.running import RunningServer


def watch(server: RunningServer, seconds: float) -> Growth:
    urls = f"grpc://{server.grpc}/tiny", f"{server.rest}/tiny"
    return asyncio.run(soak(Served(server.process.pid, urls, 7, 5, 3), seconds))


def test_growth_is_the_slope_of_what_stays() -> None:
    times = [0.0, 1.0, 3.0, 4.0, 6.0, 8.0, 9.0, 10.0]
    assert growth(times, [5 + 3 * time for time in times]) == pytest.approx(30)
    assert growth(times, [7] * 8) == 0
    assert growth(times, [7, 7, 900, 7, 7, 7, 800, 7]) == 0  # for a moment only
    assert growth(times, [3, 2, 4, 3, 2, 4, 2, 3]) == pytest.approx(0, abs=0.5)


def test_each_aim_can_be_missed() -> None:
    assert Growth(100, 2**21, 0.9, 0.9).misses() == []
    assert Growth(100, 2**21 + 1, 0, 0).misses() == ["memory grew by 2.0 MiB"]
    assert Growth(100, 0, 1, 0).misses() == ["descriptors grew by 1.0"]
    assert Growth(100, 0, 0, 2.5).misses() == ["threads grew by 2.5"]


def test_nothing_grows(server: RunningServer) -> None:
    found = watch(server, 4)
    assert found.steps_per_s > 10
    assert found.misses() == []


def test_a_planted_leak_is_found(models: Path, tmp_path: Path) -> None:
    leaking = tmp_path / "python"
    leaking.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.serving.leaking "$@"\n')
    leaking.chmod(0o755)
    with RunningServer(models, python=str(leaking)) as server:
        missed = " ".join(watch(server, 4).misses())
    assert all(word in missed for word in ("memory", "descriptors", "threads"))
