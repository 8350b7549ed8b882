"""Run an experiment: `python -m training.experiment experiments/paper.yaml`."""

from __future__ import annotations

import fnmatch
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from training.config import ConfigError
from training.experiment.plan import Experiment, PlannedRun, load_experiment
from training.experiment.progress import QueueProgress
from training.experiment.queue import Outcome, RunQueue
from training.experiment.standing import standing_or_kept
from training.run_folder import RunFolder
from training.train import StopSignal


@dataclass(frozen=True)
class Command:
    """Work through an experiment: every variant on every map with every seed, as a file says.

    Each run is a run like any other, under <runs-dir>/<the file's name>/<map>-<variant>-<seed>, in
    a process of its own with one thread. A finished run is never repeated, an interrupted one goes
    on where it was, one that another process is at work in is left alone; one that fails does not
    stop the others. Ctrl-C, SIGTERM and the end of --minutes have the runs at work write
    checkpoints; the same command goes on with them later. The exit code is 1 if a run failed.

    Examples:
      python -m training.experiment experiments/paper.yaml --list
      python -m training.experiment experiments/paper.yaml --only '3m-*' --minutes 60
      python -m training.experiment experiments/paper.yaml --collect experiments/results
    """

    file: tyro.conf.Positional[Path]
    """The experiment (docs/experiments.md)."""
    list: bool = False
    """Show the runs and how far they are, and do nothing."""
    only: str = "*"
    """Only runs whose name this pattern fits, as '3m-*' or '*-vdn-?'."""
    jobs: int = 0
    """Runs at a time; 0: as many as there are cores."""
    minutes: float | None = None
    """Stop after so many minutes; what is left goes on at the next start."""
    collect: Path | None = None
    """A folder to copy the settings and metrics of finished runs to: small files, to be kept. A run
    that is there already is not run again, even where its own folder is gone."""
    runs_dir: Path = Path("runs")
    """Where runs are kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if a run failed or could not run, 2 for a mistake in the file."""
    command = tyro.cli(
        Command,
        prog="python -m training.experiment",
        description=Command.__doc__,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        experiment = load_experiment(command.file)
        runs = [run for run in experiment.runs if fnmatch.fnmatchcase(run.name, command.only)]
        if not runs:
            raise ConfigError(f"--only: no run of {command.file} is called {command.only!r}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    path = command.runs_dir / experiment.folder
    if command.list:
        print("\n".join(plan_lines(experiment, runs, path, command.collect)))
        return 0
    try:
        outcome = work(command, runs, path)
    except OSError as error:  # a full disk, a folder that cannot be written
        print(
            f"error: {error}; the same command goes on from the last checkpoints", file=sys.stderr
        )
        return 1
    print(summary(outcome))
    return 1 if outcome.failed else 0


def work(command: Command, runs: Sequence[PlannedRun], path: Path) -> Outcome:
    stop = StopSignal()
    progress = QueueProgress()
    n_jobs = command.jobs or len(os.sched_getaffinity(0))
    until = stopping(stop, command.minutes)
    queue = RunQueue(runs, path, n_jobs, progress, until, command.collect)
    try:
        return queue.work()
    except KeyboardInterrupt:  # the second one
        return queue.outcome
    finally:
        progress.close()


def stopping(stop: Callable[[], bool], minutes: float | None) -> Callable[[], bool]:
    """True once a signal has come, or so many minutes have passed."""
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    return lambda: stop() or time.monotonic() >= end


def plan_lines(
    experiment: Experiment, runs: Sequence[PlannedRun], path: Path, kept: Path | None
) -> list[str]:
    """A line for each run: name, state, steps, win rate of the newest test."""
    width = max(len(run.name) for run in runs)
    lines = [f"{experiment.title}: {len(runs)} runs in {path}"]
    for run in runs:
        now = standing_or_kept(run, RunFolder(path / run.name), kept)
        steps = f"{now.t_env:,} of {run.t_max:,} steps" if run.t_max else ""
        won = "" if now.win_rate is None else f"{now.win_rate:4.0%} won"
        line = f"{run.name:{width}}  {now.state:11}  {steps:>32}  {won}  {now.note}"
        lines.append(line.rstrip())
    return lines


def summary(outcome: Outcome) -> str:
    parts = [f"{len(outcome.finished)} finished"]
    for names, word in (
        (outcome.failed, "failed"),
        (outcome.held, "left to other processes"),
        (outcome.left, "left for the next start"),
    ):
        if names:
            parts.append(f"{len(names)} {word} ({', '.join(names[:3])}{', …' * (len(names) > 3)})")
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
