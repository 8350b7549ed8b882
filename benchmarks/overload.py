"""Four times more than the step service can do, for half a minute: what it still gets done.

    python -m benchmarks.overload [--seconds 30]

The server has the first core to itself, the load the second. Each request is `POST /act` with 64
rows. First what it can do is found out, by callers that ask again as soon as they are answered;
then the latency at half of that; then four times as much comes, at its own pace. Aims:

- goodput: answered steps per second are at least 90 % of what it can do;
- the answered wait at most twice the bound on waiting: the p99 at half load, and the time that a
  full queue (`max_queue` rows) takes;
- within 2 s of the overload's end, half load is answered as before: no refusal, and no wait over
  that bound.

Prints a table; exits 1 if an aim is missed.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from collections import Counter
from dataclasses import dataclass

import tyro

from benchmarks.open_loop import Answer, offer, post_request, saturate
from benchmarks.serving import N_ACTIONS, N_AGENTS, OBS_DIM, on_core, running
from serving.settings import Settings

ROWS = 64
TIMES = 4.0
LEAST_GOODPUT = 0.9
MOST_WAIT = 2.0
MOST_RECOVERY_S = 2.0
SATURATING = 32
"""Callers that together fill half the queue."""


@dataclass(frozen=True)
class Command:
    """Offer the step service four times what it can do."""

    seconds: float = 30.0
    """Of overload."""


@dataclass(frozen=True)
class Figures:
    """Rates in requests answered per second, times in seconds."""

    capacity: float
    goodput: float
    usual_p99_s: float
    bound_s: float
    overload_p99_s: float
    recovery_s: float
    statuses: dict[int, int]
    """Of the overload: HTTP's, 0 where all the load's connections were busy."""

    def misses(self) -> list[str]:
        """The aims that were missed, in words."""
        kept, wait = self.goodput / self.capacity, self.overload_p99_s / self.bound_s
        strange = sorted(set(self.statuses) - {0, 200, 429})
        return [
            words
            for missed, words in (
                (kept < LEAST_GOODPUT, f"goodput is {kept:.0%} of the capacity"),
                (wait > MOST_WAIT, f"the answered waited {wait:.1f} times the bound"),
                (self.recovery_s > MOST_RECOVERY_S, f"recovery took {self.recovery_s:.1f} s"),
                (bool(strange), f"statuses {strange}"),
                (429 not in self.statuses, "nothing was refused: this was no overload"),
            )
            if missed
        ]

    def table(self) -> str:
        count = self.statuses
        rows = (
            ("capacity, steps/s", f"{self.capacity * ROWS:,.0f}", ""),
            ("goodput", f"{self.goodput / self.capacity:.1%}", f"at least {LEAST_GOODPUT:.0%}"),
            ("p99 at half load, ms", f"{1e3 * self.usual_p99_s:.1f}", ""),
            ("bound on waiting, ms", f"{1e3 * self.bound_s:.1f}", ""),
            ("p99 of the answered, ms", f"{1e3 * self.overload_p99_s:.1f}",
             f"at most {1e3 * MOST_WAIT * self.bound_s:.1f}"),
            ("recovery, s", f"{self.recovery_s:.2f}", f"at most {MOST_RECOVERY_S:.0f}"),
            ("answered, refused, unsent", f"{count.get(200, 0)}, {count.get(429, 0)}, "
             f"{count.get(0, 0)}", ""),
        )  # fmt: skip
        lines = ["| | measured | aim |", "|---|---|---|"]
        return "\n".join([*lines, *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


def team_request(address: str, model: str, obs_dim: int, n_actions: int, n_agents: int) -> bytes:
    """The first step of 64 units."""
    step = {"obs": [0.5] * obs_dim, "avail_actions": [1] * n_actions}
    rows = [{"agent_id": place % n_agents, **step} for place in range(ROWS)]
    return post_request(address, "/act", json.dumps({"model": model, "rows": rows}).encode())


async def measure(address: str, request: bytes, max_queue: int, seconds: float) -> Figures:
    """
    Args:
        max_queue: the server's, in rows.

    Raises:
        RuntimeError: the server answers nothing.
    """
    usual_seconds = max(1.0, seconds / 6)
    await saturate(address, request, SATURATING, usual_seconds / 2)  # warm
    at_most = await saturate(address, request, SATURATING, usual_seconds)
    if not (n := len(_answered(at_most))):
        raise RuntimeError(f"no request was answered: {Counter(it.status for it in at_most)}")
    capacity = n / usual_seconds
    usual = await offer(address, request, capacity / 2, usual_seconds)
    usual_p99_s = _p99(usual)
    bound_s = usual_p99_s + max_queue / (capacity * ROWS)
    overload = await offer(address, request, TIMES * capacity, seconds)
    began, ended = overload[0].due, max(answer.due for answer in overload)
    in_time = [answer for answer in _answered(overload) if answer.done <= ended]
    after = await offer(address, request, capacity / 2, 2 * MOST_RECOVERY_S)
    return Figures(
        capacity=capacity,
        goodput=len(in_time) / (ended - began),
        usual_p99_s=usual_p99_s,
        bound_s=bound_s,
        overload_p99_s=_p99(overload),
        recovery_s=recovery(after, bound_s, ended),
        statuses=dict(Counter(answer.status for answer in overload)),
    )


def recovery(after: list[Answer], bound_s: float, ended: float) -> float:
    """Seconds from the overload's end to the last request that was refused or waited too long."""
    late = [it.due for it in after if it.status != 200 or it.done - it.due > MOST_WAIT * bound_s]
    return max(late) - ended if late else 0.0


def _answered(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status == 200]


def _p99(answers: list[Answer]) -> float:
    waits = [answer.done - answer.due for answer in _answered(answers)]
    return statistics.quantiles(waits, n=100)[98] if len(waits) > 1 else float("inf")


def main(command: Command) -> int:
    if len(os.sched_getaffinity(0)) < 2:
        print("skipped: needs two cores")
        return 0
    core, load_core = sorted(os.sched_getaffinity(0))[:2]
    max_queue = int(Settings.model_fields["max_queue"].default)
    with running("overload", core) as server, on_core(load_core):
        request = team_request(server.rest, "3s5z", OBS_DIM, N_ACTIONS, N_AGENTS)
        figures = asyncio.run(measure(server.rest, request, max_queue, command.seconds))
    print(figures.table())
    for miss in figures.misses():
        print(f"missed: {miss}")
    return 1 if figures.misses() else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Command)))
