"""Experiments worked through by real queues of real runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.training.runs import metrics, run
from training.config import TrainConfig, load_yaml, save_yaml, with_values
from training.experiment.__main__ import Command, main, plan_lines, stopping, work
from training.experiment.estimate import Pace
from training.experiment.job import training_words
from training.experiment.plan import Experiment, PlannedRun, load_experiment
from training.experiment.standing import clear_leftovers, is_held, standing
from training.metrics import read_metrics, wilson_interval
from training.run_folder import RunFolder

SETTINGS = {
    "batch_size_run": 8,
    "batch_size": 8,
    "buffer_size": 64,
    "gradient_steps_per_episode": 0.125,
    "rnn_hidden_dim": 8,
    "hypernet_embed": 8,
    "test_interval": 128,
    "log_interval": 64,
    "checkpoint_seconds": 1000,
    "device": "cpu",
}


def experiment_file(folder: Path, **values: Any) -> Path:
    """A small experiment on the two-step game."""
    usual = {"preset": "two_step", "maps": {"two_step": 256}, "seeds": [1], "settings": SETTINGS}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**usual, "variants": {"qmix": None}, **values}))
    return file


def planned(folder: Path, **values: Any) -> PlannedRun:
    return load_experiment(experiment_file(folder, **values)).runs[0]


def start(file: Path, *flags: str) -> subprocess.Popen[str]:
    """The command, with its runs beside the file."""
    runs = ["--runs-dir", str(file.parent / "runs")]
    return subprocess.Popen(
        [sys.executable, "-m", "training.experiment", str(file), *runs, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    return output


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def handlers() -> Iterator[None]:
    """The command takes the signals over; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@dataclass(frozen=True)
class Worked:
    file: Path
    code: int
    output: str

    def folder(self, name: str) -> RunFolder:
        return RunFolder(self.file.parent / "runs" / "tiny" / name)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Worked:
    """One run that learns, one that does not, one that fails, and one in whose way there is
    another."""
    bad = {"algo": "iql", "settings": {"lr": 1e30}}
    file = experiment_file(
        tmp_path_factory.mktemp("worked"),
        variants={"bad": bad, "qmix": None, "vdn": None, "random": None},
    )
    folder = RunFolder(file.parent / "runs" / "tiny" / "two_step-vdn-1")
    folder.path.mkdir(parents=True)
    save_yaml(with_values(TrainConfig(), {"gamma": 0.5}, "test"), folder.config)
    process = start(file, "--jobs", "2", "--collect", str(file.parent / "kept"))
    output = finish(process)
    return Worked(file, process.returncode, output)


def test_a_run_of_a_queue_is_the_run_that_one_starts_by_hand(
    worked: Worked, tmp_path: Path
) -> None:
    plan = {p.name: p for p in load_experiment(worked.file).runs}["two_step-qmix-1"]
    assert isinstance(plan.config, TrainConfig)
    run(plan.config, tmp_path / "mine")
    assert metrics(worked.folder(plan.name).path) == metrics(tmp_path / "mine")
    assert "two_step-qmix-1 is finished: " in worked.output
    # And the queue takes the one for the other.
    now = standing(plan, RunFolder(tmp_path / "mine"))
    assert (now.state, now.t_env) == ("finished", 256)


def test_failures_are_told_and_stop_nobody(worked: Worked) -> None:
    assert worked.code == 1
    assert "two_step-bad-1 DID NOT FINISH (exit code 1); the end of " in worked.output
    assert "error: gradient step 2: loss inf" in worked.output
    assert "two_step-vdn-1 CANNOT RUN: " in worked.output
    assert "gamma: 0.5 -> 0.99" in worked.output
    assert worked.output.splitlines()[-1].startswith("2 finished; 2 failed (two_step-")
    assert load_yaml(worked.folder("two_step-vdn-1").config).learning.gamma == 0.5


def test_a_policy_that_does_not_learn_is_tested_once(worked: Worked) -> None:
    folder = worked.folder("two_step-random-1")
    (row,) = read_metrics(folder.metrics)
    learned = read_metrics(worked.folder("two_step-qmix-1").metrics)
    test = next(row for row in learned if "test_battle_won_mean" in row)
    assert set(row) == {name for name in test if not name.startswith("confirm_")}
    assert row["t_env"] == 0
    wins = round(1000 * row["test_battle_won_mean"])
    assert row["test_battle_won_ci95"] == list(wilson_interval(wins, 1000))
    assert yaml.safe_load(folder.config.read_text())["episodes"] == 1000


def test_nothing_is_done_twice(worked: Worked) -> None:
    names = ("two_step-qmix-1", "two_step-random-1")
    before = [worked.folder(name).metrics.stat() for name in names]
    process = start(worked.file, "--only", "*-[qr]*")
    output = finish(process)
    assert process.returncode == 0, output
    assert output.splitlines()[-1] == "2 finished"
    assert [worked.folder(name).metrics.stat() for name in names] == before


def test_small_files_of_finished_runs_are_kept(worked: Worked) -> None:
    kept = worked.file.parent / "kept"
    assert sorted(path.name for path in kept.iterdir()) == ["two_step-qmix-1", "two_step-random-1"]
    files = {path.name: path for path in (kept / "two_step-qmix-1").iterdir()}
    assert sorted(files) == ["config.yaml", "metrics.jsonl", "software.yaml"]
    folder = worked.folder("two_step-qmix-1")
    assert files["config.yaml"].read_bytes() == folder.config.read_bytes()
    assert files["metrics.jsonl"].read_bytes() == folder.metrics.read_bytes()
    assert set(yaml.safe_load(files["software.yaml"].read_text())) == {"torch", "numpy", "device"}


def test_what_was_collected_is_not_run_again_where_its_folder_is_gone(
    worked: Worked, tmp_path: Path, handlers: None
) -> None:
    kept, elsewhere = worked.file.parent / "kept", tmp_path / "runs"
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    flags = [str(worked.file), "--only", "*-[qr]*", "--runs-dir", str(elsewhere)]
    assert main([*flags, "--collect", str(kept)]) == 0
    assert not elsewhere.exists()
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*")} == before


def test_the_plan_shows_how_far_each_run_is(worked: Worked) -> None:
    experiment = load_experiment(worked.file)
    lines = plan_lines(experiment, experiment.runs, worked.folder("x").path.parent, None)
    words = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert words["two_step-qmix-1"][:5] == ["finished", "256", "of", "256", "steps"]
    assert words["two_step-random-1"][0] == "finished"
    assert words["two_step-bad-1"][0] == "interrupted"
    assert words["two_step-vdn-1"][0] == "other"


def test_told_to_stop_it_goes_on_later_where_it_was(tmp_path: Path) -> None:
    file = experiment_file(tmp_path, maps={"two_step": 2_000}, variants={"qmix": None, "vdn": None})
    folder = RunFolder(tmp_path / "runs" / "tiny" / "two_step-qmix-1")
    process = start(file, "--jobs", "1")
    wait_for(lambda: len(read_metrics(folder.metrics)) > 3)
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 0, output
    last = output.splitlines()[-1]
    assert last == "0 finished; 2 left for the next start (two_step-qmix-1, two_step-vdn-1)"
    assert any(folder.checkpoints.glob("last-*.pt"))
    plan = load_experiment(file).runs[0]
    assert standing(plan, folder).state == "interrupted"
    process = start(file, "--only", "*-qmix-*")
    output = finish(process)
    assert process.returncode == 0, output
    assert "two_step-qmix-1 goes on from " in output
    assert isinstance(plan.config, TrainConfig)
    run(plan.config, tmp_path / "whole")
    assert metrics(folder.path) == metrics(tmp_path / "whole")


def test_runs_do_not_outlive_a_queue_that_is_killed(tmp_path: Path) -> None:
    file = experiment_file(tmp_path, maps={"two_step": 1_000_000})
    folder = RunFolder(tmp_path / "runs" / "tiny" / "two_step-qmix-1")
    process = start(file)
    wait_for(lambda: len(read_metrics(folder.metrics)) > 3)
    assert is_held(folder)
    process.kill()
    process.communicate()
    wait_for(lambda: not is_held(folder))
    assert any(folder.checkpoints.glob("last-*.pt"))  # it was asked to stop, not killed


def test_two_queues_on_one_folder_share_the_work(tmp_path: Path) -> None:
    file = experiment_file(tmp_path, variants={"qmix": None, "vdn": None})
    queues = [start(file, "--jobs", "2") for _ in range(2)]
    outputs = [finish(process) for process in queues]
    assert [process.returncode for process in queues] == [0, 0], outputs
    for plan in load_experiment(file).runs:
        folder = RunFolder(tmp_path / "runs" / "tiny" / plan.name)
        assert standing(plan, folder).state == "finished", outputs
        assert any(f"{plan.name} is finished" in output for output in outputs)


def test_a_mistake_in_the_file_ends_it_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["--runs-dir", str(tmp_path / "runs")]
    bad = experiment_file(tmp_path, variants={"qmx": None})
    assert main([str(bad), *runs]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {bad}: variants.qmx: algo: there is no 'qmx'; did you")
    good = experiment_file(tmp_path)
    assert main([str(good), *runs, "--only", "8m-*"]) == 2
    assert "error: --only: no run of" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], handlers: None
) -> None:
    (tmp_path / "runs").write_text("a file")
    file = experiment_file(tmp_path)
    assert main([str(file), "--runs-dir", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: [Errno 20] Not a directory: ")
    assert str(tmp_path / "runs" / "tiny") in said


def test_minutes_stop_it_and_so_does_a_signal() -> None:
    assert stopping(lambda: False, 0.0)()
    assert not stopping(lambda: False, 1.0)()
    assert not stopping(lambda: False, None)()
    assert stopping(lambda: True, None)()


def test_a_queue_that_is_stopped_before_it_starts_leaves_everything(
    tmp_path: Path, handlers: None
) -> None:
    file = experiment_file(tmp_path)
    runs = load_experiment(file).runs
    outcome = work(Command(file, minutes=0.0), runs, tmp_path / "runs" / "tiny")
    assert outcome.left == ["two_step-qmix-1"]
    assert not (tmp_path / "runs").exists()


def rows(folder: RunFolder, *written: dict[str, Any]) -> None:
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in written))


def test_states_by_what_is_in_the_folder(tmp_path: Path) -> None:
    plan, folder = planned(tmp_path), RunFolder(tmp_path / "run")
    assert isinstance(plan.config, TrainConfig)
    assert standing(plan, folder).state == "new"
    with folder.lock():
        assert standing(plan, folder).state == "running"  # its settings come in a moment
        save_yaml(plan.config, folder.config)
        assert standing(plan, folder).state == "running"
    assert standing(plan, folder).state == "interrupted"
    rows(
        folder,
        {"t_env": 256, "return_mean": 1.0},
        {"t_env": 192, "test_battle_won_mean": 1.0},
    )
    now = standing(plan, folder)  # its steps are done, its last test is not
    assert (now.state, now.t_env, now.win_rate) == ("interrupted", 256, 1.0)
    rows(folder, {"t_env": 256, "test_battle_won_mean": 0.5})
    assert standing(plan, folder).state == "finished"
    longer = planned(tmp_path, maps={"two_step": 512})
    assert standing(longer, folder).state == "interrupted"
    folder.config.write_text("gama: 1\n")
    assert "unknown setting 'gama'" in standing(plan, folder).note


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("actor", "process", "finished"),
        ("compile_env", True, "finished"),
        ("checkpoint_seconds", 5.0, "finished"),
        ("minutes", 3.0, "finished"),
        ("t_max", 300, "finished"),
        ("test_nepisode", 5, "other"),
        ("seed", 2, "other"),
        ("algo", "vdn", "other"),
    ],
)
def test_settings_that_change_no_result_make_no_other_run(
    tmp_path: Path, name: str, value: Any, state: str
) -> None:
    plan, folder = planned(tmp_path), RunFolder(tmp_path / "run")
    assert isinstance(plan.config, TrainConfig)
    folder.path.mkdir()
    save_yaml(with_values(plan.config, {name: value}, "test"), folder.config)
    rows(folder, {"t_env": 256, "test_battle_won_mean": 0.5})
    now = standing(plan, folder)
    assert now.state == state
    assert (f"{name}: " in now.note) == (state == "other")


def test_what_a_run_leaves_that_ended_before_its_first_word_is_cleared(tmp_path: Path) -> None:
    plan, folder = planned(tmp_path), RunFolder(tmp_path / "run")
    with folder.lock():
        pass
    (folder.path / ".config.yaml").write_text("half")
    assert standing(plan, folder).state == "new"
    clear_leftovers(folder)
    assert not folder.path.exists()
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("irreplaceable")
    assert standing(plan, folder).state == "other"
    clear_leftovers(folder)
    assert (folder.path / "thesis.txt").exists()


def test_a_run_goes_on_to_its_budget_whatever_it_was_told_before(tmp_path: Path) -> None:
    plan, folder = planned(tmp_path), RunFolder(tmp_path / "two_step-qmix-1")
    assert isinstance(plan.config, TrainConfig)
    new = training_words(plan, folder)
    assert new[:3] == ["training.train", "--preset", "two_step"]
    assert new[-2:] == ["--name", "two_step-qmix-1"]
    assert new[new.index("--actor") + 1] == "local"
    folder.path.mkdir()
    told = {"minutes": 3.0, "until_win_rate": 0.9, "t_max": 99, "actor": "process"}
    save_yaml(with_values(plan.config, told, "test"), folder.config)
    assert training_words(plan, folder) == [
        *("training.train", "--resume", str(folder.path)),
        *("--env-steps", "256", "--minutes", "None", "--until-win-rate", "None"),
    ]


def test_the_time_left_by_hand(tmp_path: Path) -> None:
    maps = {"3m": 1000, "8m": 2000}
    file = experiment_file(tmp_path, preset="tuned", maps=maps, seeds=[1, 2, 3])
    a1, b1, a2, b2, a3, b3 = load_experiment(file).runs
    pace = Pace([a1, b1])
    assert pace.seconds_left([], [a1], 1) is None
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    rows(folder, {"t_env": 1000, "seconds": 10.0})  # 3m: 0.01 s a step; 8m: not known, so the same
    pace.learn(a1, folder)
    assert pace.seconds_left([], [a2, b1], 1) == pytest.approx(10 + 20)
    assert pace.seconds_left([], [a2, b1, b2, b3], 2) == pytest.approx((10 + 20 + 20 + 20) / 2)
    # A run of 8m at work: 500 steps in some 20 s, 0.04 s a step, 1000 to go.
    at_work = [(b1, 1000, 500, time.monotonic() - 20)]
    assert pace.seconds_left(at_work, [a3], 2) == pytest.approx((40 + 10) / 2, rel=0.01)
    assert isinstance(load_experiment(file), Experiment)
