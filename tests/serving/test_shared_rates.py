"""Rates of several processes: one bucket a caller, wherever its requests arrive."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from serving.access import shared_rates
from serving.access.entry import open_access
from serving.access.shared_rates import SharedBuckets
from serving.errors import RateLimited
from serving.settings import Settings
from tests.serving.test_access import write_keys


def n_taken(path: Path, caller: str, tries: int) -> int:
    bucket = SharedBuckets(1e-9, 100, path).of(caller)
    taken = 0
    for _ in range(tries):
        try:
            bucket.take()
        except RateLimited:
            continue
        taken += 1
    return taken


def test_two_processes_share_a_callers_bucket_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "rates"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        asked = [(path, caller, 80) for caller in ("a", "b") for _ in range(2)]
        a1, a2, b1, b2 = pool.starmap(n_taken, asked, chunksize=1)
    assert (a1 + a2, b1 + b2) == (100, 100)
    assert n_taken(path, "c", 120) == 100


def test_it_fills_again_and_owes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    here, there = (SharedBuckets(2.0, 4, tmp_path / "rates").of("a") for _ in range(2))
    here.take(3)
    with pytest.raises(RateLimited) as caught:
        there.take(2)
    assert caught.value.retry_after_s == 1
    now += 0.5  # 1 and 2 * 0.5
    there.take(2)
    now += 100  # full: 4, and no more
    here.take(10)
    now += 3  # 4 - 10 + 6
    with pytest.raises(RateLimited):
        there.take()


def test_a_full_set_forgets_who_was_quiet_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_rates, "_SETS", 1)
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    buckets = SharedBuckets(1e-9, 1, tmp_path / "rates")
    for caller in "abcde":
        now += 1
        buckets.of(caller).take()
    for known in "bcde":
        with pytest.raises(RateLimited):
            buckets.of(known).take()
    buckets.of("a").take()


def test_a_caller_has_one_rate_at_all_workers(tmp_path: Path) -> None:
    (key,) = write_keys(tmp_path / "keys", "act")
    settings = Settings(keys=tmp_path / "keys", rate_per_s=1e-6, rate_burst=3)
    doors = [open_access(settings, SharedBuckets(1e-6, 3, tmp_path / "rates")) for _ in range(2)]
    one, two = (door.admit for door in doors if door)
    one(key, "", "act")
    two(key, "", "act").spend()
    for admit in (one, two):
        with pytest.raises(RateLimited):
            admit(key, "", "act")
