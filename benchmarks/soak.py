"""Half of what the step service can do, for ten minutes: does anything grow?

    python -m benchmarks.soak [--seconds 600]

The server has the first core to itself, the load the second: sixteen callers, over REST and gRPC,
with memory held and carried, who hang up now and then and come back with an episode begun anew.
What they can do at most is measured first; then each keeps a pace that makes half of it. Memory,
descriptors and threads are read every half second; the first fifth of the time, in which pools and
arenas fill, does not count. Growth is the robust slope over the rest: at most 2 MiB, and less than
one descriptor and one thread. Prints a table; exits 1 if anything grew more, or a step failed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from benchmarks.robust_slope import growth
from benchmarks.serving import N_ACTIONS, N_AGENTS, OBS_DIM, on_core, running
from serving.client import Memory, connect

CALLERS = 16
STEPS_A_CONNECTION = 200
MOST_BYTES = 2 * 2**20
SAMPLE_S = 0.5


@dataclass(frozen=True)
class Command:
    """Watch the step service at half load."""

    seconds: float = 600.0


class Sample(NamedTuple):
    """What a process has at a moment."""

    time: float
    memory: float
    """Resident bytes."""
    descriptors: float
    threads: float

    @classmethod
    def of(cls, pid: int) -> Sample:
        here = Path(f"/proc/{pid}")
        pages = int((here / "statm").read_text().split()[1])
        descriptors, threads = (len(list((here / name).iterdir())) for name in ("fd", "task"))
        return cls(time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE"), descriptors, threads)


@dataclass(frozen=True)
class Served:
    """Whom to load, and what its model takes."""

    pid: int
    urls: tuple[str, str]
    """Of the model, over gRPC and REST."""
    obs_dim: int
    n_actions: int
    n_agents: int


@dataclass(frozen=True)
class Growth:
    """Over the time that counts."""

    steps_per_s: float
    memory: float
    descriptors: float
    threads: float

    def misses(self) -> list[str]:
        """What grew, in words."""
        return [
            words
            for missed, words in (
                (self.memory > MOST_BYTES, f"memory grew by {self.memory / 2**20:.1f} MiB"),
                (self.descriptors >= 1, f"descriptors grew by {self.descriptors:.1f}"),
                (self.threads >= 1, f"threads grew by {self.threads:.1f}"),
            )
            if missed
        ]

    def table(self) -> str:
        rows = (
            ("memory, MiB", f"{self.memory / 2**20:+.2f}", f"at most {MOST_BYTES / 2**20:.0f}"),
            ("descriptors", f"{self.descriptors:+.2f}", "less than 1"),
            ("threads", f"{self.threads:+.2f}", "less than 1"),
        )
        lines = [f"at {self.steps_per_s:,.0f} steps/s", "", "| growth | | aim |", "|---|---|---|"]
        return "\n".join([*lines, *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


async def soak(served: Served, seconds: float) -> Growth:
    """Raises: ServingClientError: a step failed."""
    start = time.monotonic()
    probe_s = max(1.0, seconds / 60)
    at_most = await _load(served, 0.0, start + probe_s) / probe_s
    pace = 2 * CALLERS / at_most
    start = time.monotonic()
    watching = asyncio.create_task(_watch(served.pid, start + seconds))
    n = await _load(served, pace, start + seconds)
    samples = [sample for sample in await watching if sample.time >= start + seconds / 5]
    times, *columns = zip(*samples, strict=True)
    return Growth(n / seconds, *(growth(times, column) for column in columns))


async def _watch(pid: int, end: float) -> list[Sample]:
    samples = []
    while time.monotonic() < end:
        samples.append(Sample.of(pid))
        await asyncio.sleep(SAMPLE_S)
    return samples


async def _load(served: Served, pace: float, end: float) -> int:
    """Steps that all callers together have done by then."""
    memories: tuple[Memory, Memory] = ("held", "carried")
    ways = itertools.cycle(itertools.product(served.urls, memories))
    callers = [
        _call(served, url, memory, caller, pace, end)
        for caller, (url, memory) in zip(range(CALLERS), ways, strict=False)
    ]
    return sum(await asyncio.gather(*callers))


async def _call(
    served: Served, url: str, memory: Memory, caller: int, pace: float, end: float
) -> int:
    """Steps done: one every so many seconds, or one after the other."""
    obs, mask = np.full(served.obs_dim, 0.5, np.float32), np.ones(served.n_actions, np.bool_)
    n, due = 0, time.monotonic() + pace * caller / CALLERS
    while time.monotonic() < end:
        async with connect(url, caller % served.n_agents, memory) as unit:
            await unit.begin_episode()
            for _ in range(STEPS_A_CONNECTION):
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if time.monotonic() >= end:
                    break
                await unit.act(obs, mask)
                n, due = n + 1, due + pace
    return n


def main(command: Command) -> int:
    if len(os.sched_getaffinity(0)) < 2:
        print("skipped: needs two cores")
        return 0
    core, load_core = sorted(os.sched_getaffinity(0))[:2]
    with running("soak", core) as server, on_core(load_core):
        urls = f"grpc://{server.grpc}/3s5z", f"{server.rest}/3s5z"
        served = Served(server.pid, urls, OBS_DIM, N_ACTIONS, N_AGENTS)
        found = asyncio.run(soak(served, command.seconds))
    print(found.table())
    for miss in found.misses():
        print(f"missed: {miss}")
    return 1 if found.misses() else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Command)))
