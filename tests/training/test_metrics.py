"""The scalars' names and values, the log and the picture."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.curve import draw_curve
from training.metrics import (
    MetricsLog,
    Row,
    battle_scalars,
    mean_scalars,
    read_metrics,
    scalars_of_test,
    wilson_interval,
)
from training.progress import Progress, spell_seconds
from training.types import BattleRecord


def battle(won: bool, episode_return: float, length: int = 2) -> BattleRecord:
    actions = np.zeros((length, 1), dtype=np.uint8)
    return BattleRecord(0, actions, episode_return, won, dead_allies=length, dead_enemies=1)


def test_wilson_interval() -> None:
    # By hand for 8 of 10: centre (0.8 + 1.92073/10) / (1 + 0.384146) = 0.71674,
    # half width sqrt(0.16 * 0.384146 + 0.384146^2 / 4) / 1.384146 = 0.22659.
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx(0.49016, abs=2e-5)
    assert high == pytest.approx(0.94333, abs=2e-5)
    assert wilson_interval(0, 32)[0] == 0.0
    assert wilson_interval(32, 32)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_battle_scalars_have_pymarl_names_and_values() -> None:
    battles = [battle(True, 20.0, 4), battle(False, 10.0, 2)]
    assert battle_scalars(battles) == {
        "return_mean": 15.0,
        "return_std": 5.0,
        "battle_won_mean": 0.5,
        "ep_length_mean": 3.0,
        "dead_allies_mean": 3.0,
        "dead_enemies_mean": 1.0,
    }
    assert battle_scalars([]) == {}
    row = scalars_of_test(battles, "test_")
    assert row["test_battle_won_mean"] == 0.5
    assert row["test_battle_won_ci95"] == list(wilson_interval(1, 2))


def test_means_leave_out_rows_without_the_scalar() -> None:
    assert mean_scalars([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}
    assert mean_scalars([]) == {}


def test_the_log_drops_what_comes_after_its_cursor(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, tmp_path / "tensorboard")
    log.write({"t_env": 1, "loss": 0.5})
    cursor = log.cursor
    log.write({"t_env": 2, "loss": 0.4})
    log.close()
    resumed = MetricsLog(path, tmp_path / "tensorboard", cursor, t_env=1)
    resumed.write({"t_env": 2, "test_battle_won_ci95": [0.1, 0.9]})
    resumed.close()
    assert read_metrics(path) == [
        {"t_env": 1, "loss": 0.5},
        {"t_env": 2, "test_battle_won_ci95": [0.1, 0.9]},
    ]
    with pytest.raises(OSError, match="lost lines"):
        MetricsLog(path, tmp_path / "tensorboard", cursor=10_000)


def test_tensorboard_has_the_same_scalars(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard")
    log.write({"t_env": 128, "loss": 0.5, "test_battle_won_ci95": [0.25, 0.75]})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    names = ["loss", "test_battle_won_ci95_high", "test_battle_won_ci95_low"]
    assert sorted(events.Tags()["scalars"]) == names
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(128, 0.5)]


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"t_env": 1}\n{"t_e')
    assert read_metrics(path) == [{"t_env": 1}]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_the_curve_is_a_picture_also_of_a_run_that_has_nothing_to_show(tmp_path: Path) -> None:
    rows = [
        {"t_env": 10_000 * n, "return_mean": float(n), "test_return_mean": 2.0 * n}
        | scalars_of_test([battle(n > 1, 1.0)] * 4, "test_")
        for n in range(1, 4)
    ]
    rows[-1] |= scalars_of_test([battle(True, 1.0)] * 9, "confirm_")
    cases: list[tuple[str, list[Row]]] = [("full", rows), ("empty", [])]
    for name, shown in cases:
        path = tmp_path / f"{name}.png"
        draw_curve(shown, path, "QMIX on 3m")
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.png", "full.png"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


ROW = {"t_env": 50, "loss": 0.25, "test_battle_won_mean": 0.5, "test_battle_won_ci95": [0.1, 0.9]}


def test_a_pipe_gets_reports_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(t_max=100)
    progress.say("hello")
    progress.report(ROW)
    progress.tick(60, 10.0, 4.0)
    progress.close()
    printed = capsys.readouterr()
    assert [json.loads(line) for line in printed.out.splitlines()] == [ROW]
    assert printed.err == "hello\n"


def test_a_terminal_gets_a_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.progress.REFRESH_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    progress = Progress(t_max=1_000_000, out=terminal)
    progress.report(ROW)
    progress.tick(60_000, 1234.5, 761.0)
    progress.close()
    line = (
        "\x1b[1m60,000\x1b[0m of 1,000,000 steps · won \x1b[1m50%\x1b[0m (10%-90%) · "
        "loss 0.2500 · 1,234 steps/s · 13 min left"
    )
    assert line in terminal.getvalue()


def test_durations_are_spelled_as_one_says_them() -> None:
    assert spell_seconds(42.4) == "42 s"
    assert spell_seconds(12 * 60) == "12 min"
    assert spell_seconds(125 * 60) == "2 h 05 min"
