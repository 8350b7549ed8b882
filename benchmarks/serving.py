"""Actions per second of the step service through each of its doors, on one core.

    python -m benchmarks.serving [--seconds 2] [--rounds 3] [--json-path PATH]

Every server has the first core to itself, the load has the second. The service is measured with
micro-batching and without (`max_batch=1`), and beside a naive FastAPI server of the same model, by
turns; medians count. Answers are checked by the service's own counters: a refused step would fail
the run. "CPU" is the server process' own time per action, which other programs on the machine
disturb less than the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import tyro

from benchmarks.serving_load import Load, call, post, stream
from serving.pb.unmix.v1 import agent_service_pb2 as pb

MODELS = Path("models")
MODEL = MODELS / "3s5z" / "1" / "model.onnx"
N_AGENTS, N_ACTIONS, OBS_DIM, HIDDEN_DIM = 8, 14, 128, 64
"""Of models/3s5z."""
MOST_UNBATCHED = 512
"""Rows at once that the server without batching is asked for: each of more would take too long."""
REST = "REST POST /agents/0/act"


@dataclass(frozen=True)
class Command:
    """Measure the step service, door by door."""

    seconds: int = 2
    """Of load per figure and round."""
    rounds: int = 3
    """Rounds; the median counts."""
    connections: tuple[int, ...] = (1, 64)
    """Callers at once, each over its own connection."""
    json_path: Path = Path("benchmarks/results/serving.json")


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    name: str
    pid: int
    rest: str
    grpc: str = ""

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def steps(self) -> tuple[float, float, float]:
        """(steps done, runs of the model, steps refused) up to now."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self.rest}/metrics") as answer:
            text = answer.read().decode()
        done = _sum(text, r'unmix_requests_total\{code="ok".*')
        runs = _sum(text, r"unmix_batch_rows_count\{.*")
        # wrk hangs up in the middle of its last requests: those are not refused, but abandoned.
        return done, runs, _sum(text, r'unmix_requests_total\{code="(?!ok|abandoned).*')


def _sum(text: str, pattern: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in re.findall(f"^{pattern}", text, re.M))


@dataclass(frozen=True)
class Door:
    """One way of asking, and how many rows a message has."""

    name: str
    rows: int
    drive: Callable[[Server, int, int], Load]


@dataclass(frozen=True)
class Figure:
    """Medians over the rounds."""

    door: str
    server: str
    connections: int
    messages_per_s: float
    actions_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_action: float
    rows_per_run: float
    """0 where the server does not say."""


def doors() -> list[Door]:
    random = np.random.default_rng(0)
    obs = random.uniform(-1, 1, (64, OBS_DIM)).astype("<f4")
    masks = random.random((64, N_ACTIONS)) < 0.6
    masks[:, 1] = True
    hidden = random.uniform(-0.9, 0.9, HIDDEN_DIM).astype("<f4")
    unary = pb.ActRequest(
        obs=obs[0].tobytes(), avail_actions=masks[0].tobytes(), last_action=1,
        hidden=hidden.tobytes(),
    ).SerializeToString()  # fmt: skip
    step = {"obs": obs[0].tobytes(), "avail_actions": masks[0].tobytes()}
    begin = pb.ActStreamRequest(begin=pb.Episode(agent_id=0), **step).SerializeToString()
    unit = pb.ActStreamRequest(**step).SerializeToString()

    def team(n: int) -> Door:
        units = list(range(n))
        request = pb.TeamStreamRequest(
            units=units, obs=obs[:n].tobytes(), avail_actions=masks[:n].tobytes()
        )
        first = pb.TeamStreamRequest()
        first.CopyFrom(request)
        agents = [unit % N_AGENTS for unit in units]
        first.begin.CopyFrom(pb.TeamBegin(units=units, agent_ids=agents))
        data, first_data = request.SerializeToString(), first.SerializeToString()
        return Door(
            f"gRPC TeamStream, {n} rows",
            n,
            lambda server, n_callers, seconds: stream(
                server.grpc, n, first_data, data, n_callers, seconds
            ),
        )

    def row(place: int) -> dict[str, object]:
        return {
            "obs": obs[place].tolist(),
            "avail_actions": masks[place].tolist(),
            "last_action": 1,
            "hidden": hidden.tolist(),
        }

    def act_many(n: int) -> Door:
        rows = [row(place) | {"agent_id": place % N_AGENTS} for place in range(n)]
        body = json.dumps({"rows": rows}).encode()
        return Door(
            f"REST POST /act, {n} rows",
            n,
            lambda server, n_callers, seconds: post(f"{server.rest}/act", body, n_callers, seconds),
        )

    single = json.dumps(row(0)).encode()
    return [
        Door(
            REST,
            1,
            lambda server, n, seconds: post(f"{server.rest}/agents/0/act", single, n, seconds),
        ),
        act_many(8),
        act_many(64),
        Door("gRPC Act", 1, lambda server, n, seconds: call(server.grpc, unary, n, seconds)),
        Door(
            "gRPC ActStream",
            1,
            lambda server, n, seconds: stream(server.grpc, 0, begin, unit, n, seconds),
        ),
        team(8),
        team(64),
    ]


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process, and what it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(name: str, core: int, max_batch: int | None = None) -> Iterator[Server]:
    """The step service."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("UNMIX_")}
    setting = {} if max_batch is None else {"UNMIX_MAX_BATCH": str(max_batch)}
    command = [sys.executable, "-m", "serving.server", "--models", str(MODELS)]
    with on_core(core):
        process = subprocess.Popen(
            [*command, "--http-port", "0", "--grpc-port", "0", "--log-format", "json"],
            stderr=subprocess.PIPE,
            text=True,
            env=clean | setting,
        )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "ready":
                address = event["grpc"].removeprefix("grpc://")
                yield Server(name, process.pid, event["rest"], address)
                break
        else:
            raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.communicate()


@contextlib.contextmanager
def running_naive(core: int) -> Iterator[Server]:
    """The naive server, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    module = [sys.executable, "-m", "benchmarks.peers.naive_fastapi"]
    with on_core(core):
        process = subprocess.Popen([*module, str(MODEL), str(port)])
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield Server("naive FastAPI", process.pid, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


def measure(door: Door, server: Server, connections: int, seconds: int) -> Figure:
    """One round. Raises: RuntimeError: a step was refused."""
    ours = bool(server.grpc)
    before, cpu = server.steps() if ours else (0, 0, 0), server.cpu_seconds()
    load = door.drive(server, connections, seconds)
    cpu = server.cpu_seconds() - cpu
    done, runs, refused = (
        after - earlier
        for after, earlier in zip(server.steps() if ours else (0, 0, 0), before, strict=True)
    )
    if refused:
        raise RuntimeError(f"{refused:.0f} steps were refused")
    messages = load.n / load.seconds
    return Figure(
        door=door.name,
        server=server.name,
        connections=connections,
        messages_per_s=messages,
        actions_per_s=messages * door.rows,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        cpu_us_per_action=1e6 * cpu / (done if ours else load.n),
        rows_per_run=done / runs if runs else 0.0,
    )


def median(figures: list[Figure]) -> Figure:
    numbers = [name for name, value in asdict(figures[0]).items() if isinstance(value, float)]
    middle = {
        name: statistics.median(getattr(figure, name) for figure in figures) for name in numbers
    }
    return Figure(**(asdict(figures[0]) | middle))


def show(figures: list[Figure]) -> None:
    print(
        "| door | server | connections | actions/s | p50 ms | p99 ms | CPU µs/action | rows/run |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for it in figures:
        print(
            f"| {it.door} | {it.server} | {it.connections} | {it.actions_per_s:,.0f} | "
            f"{it.p50_ms:.2f} | {it.p99_ms:.2f} | {it.cpu_us_per_action:.1f} | "
            f"{it.rows_per_run:.1f} |"
        )


def main(command: Command) -> None:
    missing = [tool for tool in ("wrk", "h2load") if shutil.which(tool) is None]
    if missing or len(os.sched_getaffinity(0)) < 2:
        print("skipped: needs two cores, and wrk and h2load (Debian: wrk, nghttp2-client)")
        return
    core, load_core = sorted(os.sched_getaffinity(0))[:2]
    rounds: dict[tuple[str, str, int], list[Figure]] = {}
    with (
        running("batched", core) as batched,
        running("max_batch=1", core, max_batch=1) as unbatched,
        running_naive(core) as naive,
        on_core(load_core),
    ):
        for _ in range(command.rounds):
            for door in doors():
                for connections in command.connections:
                    servers = [batched, *([naive] if door.name == REST else [])]
                    if 1 < connections * door.rows <= MOST_UNBATCHED:
                        servers.append(unbatched)
                    for server in servers:
                        figure = measure(door, server, connections, command.seconds)
                        key = door.name, server.name, connections
                        rounds.setdefault(key, []).append(figure)
                        print(".", end="", flush=True)
    print()
    figures = [median(found) for found in rounds.values()]
    show(figures)
    command.json_path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "rounds": command.rounds,
        "seconds": command.seconds,
        "load_average": os.getloadavg(),
        "figures": [asdict(figure) for figure in figures],
    }
    command.json_path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Command))
