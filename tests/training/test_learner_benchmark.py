"""The learner's benchmark: it compares before it measures, and says what it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import learner as benchmark
from benchmarks.padded_loop import LoopLearner
from training.algorithms.q_learner import QLearner
from training.allocator import keep_freed_memory
from training.config import LearningConfig


def test_one_table_and_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results" / "learner.json"
    benchmark.main(benchmark.Options(threads=(1,), rounds=1, json=path))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["even", "1"], ["early", "1"]]
    rows = json.loads(path.read_text())["rows"]
    assert [row["lengths"] for row in rows] == ["even", "early"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["learner_ms"] / row["loop_ms"])
    # Drawn uniformly from 30 to 60, and from 35 to 65 beside one of 150.
    assert 40 < rows[0]["mean_length"] < 52
    assert 48 < rows[1]["mean_length"] < 60


def test_learners_that_differ_are_not_measured() -> None:
    torch.manual_seed(0)
    learner = QLearner(benchmark.INFO, "qmix", LearningConfig(), torch.device("cpu"))
    loop = LoopLearner(learner)
    with torch.no_grad():
        loop.agent.rnn.bias_hh[0] += 0.1
    batch = benchmark.make_batches("even", seed=0)[0]
    with pytest.raises(AssertionError):
        benchmark.check_equal(learner, loop, batch)


def test_keeping_freed_memory_changes_no_result() -> None:
    keep_freed_memory()
    assert torch.ones(10_000_000).sum() == 1e7
