"""How long a queue will take, from how long its runs have taken so far."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from training.experiment.plan import PlannedRun
from training.metrics import read_metrics
from training.run_folder import RunFolder

MIN_SECONDS = 5.0  # of a run at work, before its speed says anything

Work = tuple[PlannedRun, int, int, float]
"""A run at work: its steps by now, those it began with, `time.monotonic()` at its start."""


class Pace:
    """Seconds per step of each map: of finished runs, else of those at work, else of other maps."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self._of_map: dict[str, list[float]] = {run.map_name: [] for run in runs}

    def learn(self, run: PlannedRun, folder: RunFolder) -> None:
        """A run has finished; its metrics say how long it took."""
        rows = read_metrics(folder.metrics)
        if run.t_max and rows:
            self._of_map[run.map_name].append(rows[-1]["seconds"] / run.t_max)

    def seconds_left(
        self, at_work: Sequence[Work], waiting: Sequence[PlannedRun], n_jobs: int
    ) -> float | None:
        """Until all are finished, were they to share the jobs evenly; None while it is unknown."""
        known = {name: list(paces) for name, paces in self._of_map.items()}
        now = time.monotonic()
        for run, t_env, begins_at, started in at_work:
            if t_env > begins_at and now - started > MIN_SECONDS:
                known[run.map_name].append((now - started) / (t_env - begins_at))
        means = {name: statistics.fmean(paces) for name, paces in known.items() if paces}
        if not means:
            return None
        usual = statistics.fmean(means.values())
        steps = [(run, run.t_max - t_env) for run, t_env, _, _ in at_work]
        steps += [(run, run.t_max) for run in waiting]
        work = sum(means.get(run.map_name, usual) * max(0, n) for run, n in steps)
        return work / min(n_jobs, max(1, len(steps)))
