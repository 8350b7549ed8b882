"""The command, killed and told to stop, as a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.training.runs import metrics, weights_sha256
from training.metrics import read_metrics
from training.run_folder import RunFolder
from training.train import main

# 8 battles for 4 steps a round: 60 rounds with a report each, 15 with a test, and checkpoints all
# the time.
FLAGS = [
    *("--preset", "two_step", "--name", "run", "--env-steps", "1920", "--parallel", "8"),
    *("--batch-size", "8", "--buffer-size", "64", "--gradient-steps-per-episode", "0.125"),
    *("--test-interval", "128", "--log-interval", "32", "--epsilon-finish", "0.2"),
    *("--epsilon-anneal-time", "1000", "--checkpoint-seconds", "0.02"),
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["training.trainer", "torch.utils.tensorboard", "matplotlib.backends.backend_agg", __name__]
)


def command(flags: list[str], log: Path) -> None:
    """What `python -m training.train` does."""
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.exit(main(flags))


def start(flags: list[str], folder: Path) -> ForkServerProcess:
    """Start the command; torch is imported already in the process it is forked from."""
    flags = [*flags, "--runs-dir", str(folder)]
    process = CONTEXT.Process(target=command, args=(flags, folder / "log"))
    process.start()
    return process


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def n_rows(run: Path) -> int:
    return len(read_metrics(RunFolder(run).metrics))


def finish(process: ForkServerProcess, folder: Path) -> None:
    process.join(120)
    assert process.exitcode == 0, (folder / "log").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    flags = [*FLAGS, "--actor", "local", "--checkpoint-seconds", "1000"]
    finish(start(flags, folder), folder)
    assert n_rows(folder / "run") > 60
    return folder / "run"


def assert_same_run(one: Path, other: Path) -> None:
    assert metrics(one) == metrics(other)
    assert weights_sha256(one) == weights_sha256(other)


def test_killed_at_ten_moments_it_is_the_run_that_was_never_killed(
    whole: Path, tmp_path: Path
) -> None:
    draw, run = random.Random(7), tmp_path / "run"
    flags = [*FLAGS, "--actor", "local"]
    for _ in range(10):
        process = start(flags, tmp_path)
        flags = ["--resume", "run"]
        kill_after(process, n_rows(run) + 2, draw.uniform(0.0, 0.1), run)
    process = start(flags, tmp_path)
    finish(process, tmp_path)
    assert_same_run(run, whole)


def test_coma_killed_within_its_turns_is_the_run_that_was_never_killed(tmp_path: Path) -> None:
    here = ["--preset", "coma", "--env", "two_step", "--name", "run", "--env-steps", "960"]
    here += ["--actor", "local", "--checkpoint-seconds", "0.02", "--test-interval", "128"]
    here += ["--log-interval", "32", "--target-update-interval", "20", "--lr", "0.005"]
    (tmp_path / "whole").mkdir()
    finish(start(here, tmp_path / "whole"), tmp_path / "whole")
    flags, run, draw = here, tmp_path / "run", random.Random(3)
    for _ in range(3):
        process = start(flags, tmp_path)
        flags = ["--resume", "run"]
        kill_after(process, n_rows(run) + 2, draw.uniform(0.0, 0.1), run)
    finish(start(flags, tmp_path), tmp_path)
    assert_same_run(run, tmp_path / "whole" / "run")


def kill_after(process: ForkServerProcess, rows: int, seconds: float, run: Path) -> None:
    """Kill it some time after the run's log has so many rows."""
    wait_for(lambda: n_rows(run) >= rows or not process.is_alive())
    time.sleep(seconds)
    assert process.is_alive(), (run.parent / "log").read_text()
    process.kill()
    process.join()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start_command(flags: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "training.train", *flags, "--runs-dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_playing_process_dies_with_its_trainer_and_the_run_goes_on(
    whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with start_command([*FLAGS, "--actor", "process"], tmp_path) as process:
        wait_for(lambda: n_rows(run) > 20)
        (actor,) = children(process.pid)
        process.kill()
        wait_for(lambda: not alive(actor), seconds=5)
    with start_command(["--resume", "run"], tmp_path) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert_same_run(run, whole)


def test_a_trainer_whose_playing_process_dies_says_so_and_the_run_goes_on(
    whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with start_command([*FLAGS, "--actor", "process"], tmp_path) as process:
        wait_for(lambda: n_rows(run) > 20)
        (actor,) = children(process.pid)
        os.kill(actor, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"the playing process {actor} died: signal SIGKILL" in output
    assert "the last good checkpoint is in" in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_writes_a_checkpoint_and_goes_on_later(
    whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    flags = [*FLAGS, "--actor", "local", "--checkpoint-seconds", "1000"]
    process = start(flags, tmp_path)
    wait_for(lambda: n_rows(run) > 10)
    assert process.pid is not None
    asked = time.monotonic()
    os.kill(process.pid, number)
    finish(process, tmp_path)
    assert time.monotonic() - asked < 10
    assert "ended by a signal" in (tmp_path / "log").read_text()
    assert (run / "curve.png").is_file()
    finish(start(["--resume", str(run)], tmp_path), tmp_path)
    assert_same_run(run, whole)


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    process = start([*FLAGS, "--actor", "local"], tmp_path)
    wait_for(lambda: n_rows(tmp_path / "run") > 10)
    assert process.pid is not None
    # Held still, it finds both signals when it wakes: the first cannot have had any effect yet.
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode in (0, 130)


def test_a_second_trainer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start([*FLAGS, "--actor", "local"], tmp_path)
    wait_for(lambda: n_rows(tmp_path / "run") > 2)
    assert main(["--resume", str(tmp_path / "run")]) == 2
    assert f"process {process.pid} is training here" in capsys.readouterr().err
    process.kill()
    process.join()
