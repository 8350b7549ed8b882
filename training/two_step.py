"""`python -m training.two_step`: the QMIX paper's small game, learned by VDN and by QMIX."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from training.two_step_study import (
    DIFFERENCES,
    N_EPISODES,
    PAPER,
    STATES,
    Outcome,
    Table,
    spell,
    study,
    true_tables,
)

ALGOS = ("qmix", "vdn")


@dataclass(frozen=True)
class Command:
    """Let VDN and QMIX learn the two-step game of the QMIX paper, and print what they learned.

    In state 1 the first agent chooses the second step's state: 2A pays 7 whatever the team does, 2B
    0, 1, 1 or 8. VDN adds its agents' values up, cannot write down 2B's table, and settles for the
    7; QMIX can, and takes the 8. Tables are means over the seeds, beside the paper's and the true
    ones; rows are the first agent's action, A or B, columns the second's.

    Example: python -m training.two_step --seeds 5 --picture two-step.png
    """

    seeds: int = 5
    """Runs of each algorithm, with the seeds 1, 2, ..."""
    episodes: int = N_EPISODES
    """Games in a run, all played at random."""
    picture: Path | None = None
    """Draw the tables as heat maps into this PNG."""
    json: bool = False
    """Print one JSON object instead of tables."""


@dataclass(frozen=True)
class Summary:
    """What an algorithm's runs have learned."""

    greedy_return: float
    """Mean over the seeds."""
    q_tot: dict[str, Table]
    """State -> the value of each joint action, the mean over the seeds."""
    largest_error: float
    """The largest distance from a true value, over all seeds."""
    seeds: list[Outcome]


def run(command: Command) -> dict[str, Summary]:
    """Algorithm -> what it learned. Runs are spread over the cores.

    Raises:
        ValueError: there are no seeds, too few episodes, or no folder for the picture.
    """
    if command.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {command.seeds}")
    if command.picture is not None and not command.picture.parent.is_dir():
        folder = str(command.picture.parent)
        raise ValueError(f"{command.picture}: there is no folder {folder!r}")
    tasks = [(algo, seed) for seed in range(1, command.seeds + 1) for algo in ALGOS]
    n_workers = min(len(tasks), len(os.sched_getaffinity(0)))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_workers, spawn, initializer=_begin_worker) as pool:
        futures = {pool.submit(study, *task, command.episodes): task for task in tasks}
        try:
            outcomes = _wait(futures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {
        algo: summarise([outcomes[task] for task in tasks if task[0] == algo]) for algo in ALGOS
    }


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """`outcomes`: one algorithm's."""
    tables = torch.tensor([[outcome.q_tot[s] for s in STATES] for outcome in outcomes]).mean(0)
    return Summary(
        greedy_return=statistics.fmean(outcome.greedy_return for outcome in outcomes),
        q_tot=dict(zip(STATES, tables.tolist(), strict=True)),
        largest_error=max(outcome.largest_error for outcome in outcomes),
        seeds=list(outcomes),
    )


def report(summaries: dict[str, Summary]) -> str:
    """All tables beside the paper's and the true ones, and what each algorithm settles for."""
    lines = [DIFFERENCES]
    for algo, summary in summaries.items():
        n_seeds = len(summary.seeds)
        lines += ["", f"{algo.upper()}, {n_seeds} seed{'s' if n_seeds > 1 else ''}"]
        lines.append(f"{'':9}{'learned':16}{'the paper':16}{'true':16}".rstrip())
        for state, truth in true_tables().items():
            for row in (0, 1):
                tables = (summary.q_tot[state], PAPER[algo][state], truth)
                cells = "".join("".join(f"{spell(q):>6}" for q in t[row]) + "    " for t in tables)
                lines.append(f"{f'state {state}' if row == 0 else '':8}{cells}".rstrip())
        returns = [f"{outcome.greedy_return:g}" for outcome in summary.seeds]
        lines.append(f"greedy return by seed: {' '.join(returns)}")
        lines.append(f"farthest from a true value, in any seed: {summary.largest_error:.3f}")
    return "\n".join(lines)


def _begin_worker() -> None:
    """A core each; a Ctrl-C, which reaches the whole process group, ends a worker silently."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)


def _wait(futures: dict[Future[Outcome], tuple[str, int]]) -> dict[tuple[str, int], Outcome]:
    started = time.monotonic()
    outcomes: dict[tuple[str, int], Outcome] = {}
    for future in as_completed(futures):
        algo, seed = futures[future]
        outcome = outcomes[algo, seed] = future.result()
        seconds = time.monotonic() - started
        print(
            f"{algo} seed {seed}: return {outcome.greedy_return:g} "
            f"({len(outcomes)} of {len(futures)}, {seconds:.0f} s)",
            file=sys.stderr,
        )
    return outcomes


def as_dict(summaries: dict[str, Summary]) -> dict[str, Any]:
    return {algo: asdict(summary) for algo, summary in summaries.items()}


def main() -> int:
    command = tyro.cli(Command, prog="python -m training.two_step", description=Command.__doc__)
    try:
        summaries = run(command)
    except ValueError as error:
        print(f"training.two_step: {error}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print("training.two_step: a process that was learning died", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print(json.dumps(as_dict(summaries)) if command.json else report(summaries))
    if command.picture is not None:
        from training.two_step_picture import draw_tables

        learned = {algo: summary.q_tot for algo, summary in summaries.items()}
        draw_tables(learned, command.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
