"""Works through the runs of an experiment, a few at a time, and leaves what others are at."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.experiment.collect import collect
from training.experiment.estimate import Pace
from training.experiment.job import Job
from training.experiment.plan import PlannedRun
from training.experiment.progress import QueueProgress
from training.experiment.standing import Standing, standing, standing_or_kept
from training.progress import spell_seconds
from training.run_folder import RunFolder, RunFolderError

POLL_SECONDS = 0.1
LOOK_SECONDS = 1.0  # between two looks at how far the runs are


@dataclass
class Outcome:
    """What a queue did, by the names of the runs."""

    finished: list[str] = field(default_factory=list)
    """Those that were finished before are among them."""
    failed: list[str] = field(default_factory=list)
    """Those whose folder holds something else are among them."""
    held: list[str] = field(default_factory=list)
    """Another process was at work there."""
    left: list[str] = field(default_factory=list)
    """Not begun, or to be gone on with: the queue was stopped."""


class RunQueue:
    """A queue of runs over `n_jobs` processes of one thread each.

    Args:
        runs: in the order in which they are started.
        path: the folder of their folders.
        collect_to: where the small files of finished runs are copied to, if anywhere. What is
            there already is not run again.
        stop: turns true when the queue is to be broken off: runs at work write checkpoints.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        path: Path,
        n_jobs: int,
        progress: QueueProgress,
        stop: Callable[[], bool],
        collect_to: Path | None = None,
    ) -> None:
        self._waiting, self._path, self._n_jobs = list(runs), path, n_jobs
        self._progress, self._stop, self._collect_to = progress, stop, collect_to
        self._jobs: list[Job] = []
        self._pace = Pace(runs)
        self._n_runs = len(runs)
        self._looked = 0.0
        self.outcome = Outcome()

    def work(self) -> Outcome:
        """Until all is done that can be, or it is told to stop. No process outlives it."""
        try:
            while not self._stop():
                self._start_some()
                if not self._jobs:
                    return self.outcome
                self._wait()
            self._break_off()
        finally:
            for job in self._jobs:  # after a second Ctrl-C, or an error of ours
                job.kill()
            left = [*(job.run for job in self._jobs), *self._waiting]
            self.outcome.left += [run.name for run in left]
        return self.outcome

    def _start_some(self) -> None:
        while self._waiting and len(self._jobs) < self._n_jobs and not self._stop():
            run = self._waiting.pop(0)
            folder = RunFolder(self._path / run.name)
            now = standing_or_kept(run, folder, self._collect_to)
            if now.state in ("new", "interrupted"):
                self._start(run, folder, now)
            else:
                self._settle(run, now)

    def _start(self, run: PlannedRun, folder: RunFolder, now: Standing) -> None:
        try:
            self._jobs.append(Job(run, folder, self._path / "logs"))
        except RunFolderError:
            self._settle(run, Standing("running"))
            return
        how = f"goes on from {now.t_env:,} steps" if now.t_env else "starts"
        self._progress.say(f"{run.name} {how}")

    def _wait(self) -> None:
        time.sleep(POLL_SECONDS)
        for job in [job for job in self._jobs if job.is_over()]:
            self._jobs.remove(job)
            self._receive(job, job.conclude())
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._tell()

    def _receive(self, job: Job, now: Standing) -> None:
        """A run's process is over, as it should be or not."""
        if now.state in ("finished", "running"):
            self._pace.learn(job.run, self._folder(job.run))
            self._settle(job.run, now)
        else:
            code = job.process.returncode
            self.outcome.failed.append(job.run.name)
            self._progress.say(
                f"{job.run.name} DID NOT FINISH (exit code {code}); the end of {job.log}:\n"
                f"{job.last_words()}"
            )

    def _settle(self, run: PlannedRun, now: Standing) -> None:
        """The run needs no process, or may have none."""
        if now.state == "finished":
            self.outcome.finished.append(run.name)
            if self._collect_to is not None and self._folder(run).config.is_file():
                collect(self._folder(run), self._collect_to / run.name)
            done = f"{len(self.outcome.finished)} of {self._n_runs} runs are finished"
            won = f"{now.win_rate:.0%} of the last test won" if now.win_rate is not None else ""
            self._progress.say(f"{run.name} is finished: {won}; {done}")
        elif now.state == "running":
            self.outcome.held.append(run.name)
            self._progress.say(f"{run.name} is left to the process that is at work there")
        else:
            self.outcome.failed.append(run.name)
            self._progress.say(f"{run.name} CANNOT RUN: {self._folder(run).path} {now.note}")

    def _break_off(self) -> None:
        """Have the runs at work write checkpoints, and wait for them."""
        if self._jobs:
            self._progress.say(f"stopping {len(self._jobs)} runs; Ctrl-C ends them at once")
        for job in self._jobs:
            job.ask_to_stop()
        while self._jobs:
            time.sleep(POLL_SECONDS)
            for job in [job for job in self._jobs if job.is_over()]:
                now = job.conclude()
                self._jobs.remove(job)
                if now.state == "finished":
                    self._settle(job.run, now)
                else:
                    self.outcome.left.append(job.run.name)

    def _folder(self, run: PlannedRun) -> RunFolder:
        return RunFolder(self._path / run.name)

    def _tell(self) -> None:
        now = {job.run.name: standing(job.run, job.folder) for job in self._jobs}
        seconds = self._pace.seconds_left(
            [(job.run, now[job.run.name].t_env, job.begins_at, job.started) for job in self._jobs],
            self._waiting,
            self._n_jobs,
        )
        lines = [_line(job, now[job.run.name]) for job in self._jobs]
        done = len(self.outcome.finished)
        left = f", about {spell_seconds(seconds)} left" if seconds is not None else ""
        self._progress.show([f"{done} of {self._n_runs} runs are finished{left}", *lines])


def _line(job: Job, now: Standing) -> str:
    if not job.run.t_max:
        return f"{job.run.name}  playing"
    won = "" if now.win_rate is None else f"  {now.win_rate:.0%} won"
    return f"{job.run.name}  {now.t_env:,} of {job.run.t_max:,} steps{won}"
