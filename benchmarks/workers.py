"""One worker beside two: how much do more processes bring?

    python -m benchmarks.workers [--seconds 3] [--rounds 3]

The two servers take turns under the same load, and the median of the rounds counts. Nothing is
pinned: the load generator shares the cores with the servers, and on a machine with two cores it
takes a good part of them, so that two workers cannot show all that they would bring where callers
are elsewhere. The processor time per action, of all serving processes, depends less on that: it
says what the spreading itself costs. Needs wrk and h2load (Debian: wrk, nghttp2-client).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from benchmarks.serving import MODELS, Door, Server, doors
from benchmarks.serving_bars import REST

DOORS = (REST, "REST POST /act, 64 rows", "gRPC Act", "gRPC ActStream")


@dataclass(frozen=True)
class Command:
    """Measure `--workers`."""

    seconds: int = 3
    """Of load per figure and round."""
    rounds: int = 3
    """Rounds; the median counts."""
    connections: int = 64
    """Callers at once, each over its own connection."""
    workers: tuple[int, ...] = (1, 2)
    json_path: Path = Path("benchmarks/results/workers.json")


@dataclass(frozen=True)
class Figure:
    """Medians over the rounds."""

    door: str
    workers: int
    actions_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_action: float
    cores_used: float
    """By the serving processes."""


@contextlib.contextmanager
def served(n_workers: int, models: Path) -> Iterator[Server]:
    """The step service with so many workers."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("UNMIX_")}
    command = [sys.executable, "-m", "serving.server", "--models", str(models)]
    ports = ["--http-port", "0", "--grpc-port", "0", "--workers", str(n_workers)]
    process = subprocess.Popen(
        [*command, *ports, "--log-format", "json"], stderr=subprocess.PIPE, text=True, env=clean
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "ready":
                address = event["grpc"].removeprefix("grpc://")
                yield Server(str(n_workers), process.pid, event["rest"], address)
                break
        else:
            raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.communicate()


def cpu_seconds(server: Server) -> float:
    """Of the process and those that it has started."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    pids = [server.pid, *map(int, children)]
    return sum(Server(server.name, pid, server.rest).cpu_seconds() for pid in pids)


def measure(door: Door, server: Server, command: Command) -> Figure:
    """One round. Raises: RuntimeError: a step was refused."""
    (done, _, refused), cpu = server.steps(), cpu_seconds(server)
    load = door.drive(server, command.connections, command.seconds)
    after, _, refused_after = server.steps()
    cpu = cpu_seconds(server) - cpu
    if refused_after > refused:
        raise RuntimeError(f"{refused_after - refused:.0f} steps were refused")
    return Figure(
        door.name,
        int(server.name),
        load.n * door.rows / load.seconds,
        load.p50_ms,
        load.p99_ms,
        1e6 * cpu / (after - done),
        cpu / load.seconds,
    )


def median(figures: list[Figure]) -> Figure:
    numbers = [name for name, value in asdict(figures[0]).items() if isinstance(value, float)]
    middle = {name: statistics.median(getattr(it, name) for it in figures) for name in numbers}
    return Figure(**(asdict(figures[0]) | middle))


def main(command: Command) -> None:
    if not (shutil.which("wrk") and shutil.which("h2load")):
        print("skipped: needs wrk and h2load (Debian: wrk, nghttp2-client)")
        return
    chosen = [door for door in doors() if door.name in DOORS]
    rounds: dict[tuple[str, int], list[Figure]] = {}
    with contextlib.ExitStack() as stack:
        # The doors name no model: there must be one only.
        models = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (models / "3s5z").symlink_to((MODELS / "3s5z").resolve())
        servers = [stack.enter_context(served(n, models)) for n in command.workers]
        for _ in range(command.rounds):
            for door in chosen:
                for server in servers:
                    figure = measure(door, server, command)
                    rounds.setdefault((door.name, figure.workers), []).append(figure)
    figures = [median(found) for found in rounds.values()]
    print(f"{command.connections} connections; the load shares the {os.cpu_count()} cores")
    print("| door | workers | actions/s | p50 ms | p99 ms | CPU µs/action | cores used |")
    print("|---|---|---|---|---|---|---|")
    for it in figures:
        print(f"| {it.door} | {it.workers} | {it.actions_per_s:,.0f} | {it.p50_ms:.2f} | "
              f"{it.p99_ms:.2f} | {it.cpu_us_per_action:.1f} | {it.cores_used:.2f} |")  # fmt: skip
    command.json_path.parent.mkdir(parents=True, exist_ok=True)
    content = {"load_average": os.getloadavg(), "figures": [asdict(it) for it in figures]}
    command.json_path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Command))
