"""Actions per second of the step service through each of its doors, on one core.

    python -m benchmarks.serving [--seconds 2] [--rounds 3] [--peers NAME ...] [--json-path PATH]

Every server has the first core to itself, the load has the second. The service is measured with
micro-batching and without (`max_batch=1`), and beside other servers of the same model
(`benchmarks.peers.servers`), by turns; medians count. A peer that cannot be had is left out, and
why is said. At the end come the ratios that are asked for, and whether they were met. The service's
answers are checked by its own counters: a refused step would fail the run. "CPU" is the server's
own time per action, which other programs on the machine disturb less than the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import tyro

from benchmarks.peers import PeerUnavailableError, last_line
from benchmarks.peers.servers import PEERS, PeerServer, some_step, start
from benchmarks.processes import cpu_seconds, memory
from benchmarks.serving_bars import (
    OPEN,
    OPEN_RATE,
    OURS,
    REST,
    Figure,
    Start,
    compare,
    show_verdicts,
)
from benchmarks.serving_load import Load, call, post, post_on_time, stream
from serving.pb.unmix.v1 import agent_service_pb2 as pb

MODELS = Path("models")
MAP = "3s5z"
MODEL = MODELS / MAP / "1" / "model.onnx"
N_AGENTS, N_ACTIONS, OBS_DIM, HIDDEN_DIM = 8, 14, 128, 64
"""Of models/3s5z."""
MOST_UNBATCHED = 512
"""Rows at once that the server without batching is asked for: each of more would take too long."""


@dataclass(frozen=True)
class Command:
    """Measure the step service, door by door."""

    seconds: int = 2
    """Of load per figure and round."""
    rounds: int = 3
    """Rounds; the median counts."""
    connections: tuple[int, ...] = (1, 64)
    """Callers at once, each over its own connection."""
    peers: tuple[str, ...] = tuple(PEERS)
    """Servers to measure beside ours; those that need packages of their own are installed once."""
    doors: tuple[str, ...] = ()
    """Only these of the service's doors, by their names in the table; all, if none is named."""
    json_path: Path = Path("benchmarks/results/serving.json")


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    name: str
    pid: int
    rest: str
    grpc: str = ""

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

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
        Door(
            OPEN,
            1,
            lambda server, n, seconds: post_on_time(
                f"{server.rest}/agents/0/act", single, OPEN_RATE, n, seconds
            ),
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
def running(
    name: str, core: int, module: str = "serving.server", **settings: int
) -> Iterator[Server]:
    """The step service with one model, started by this module."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("UNMIX_")}
    given = {f"UNMIX_{setting.upper()}": str(value) for setting, value in settings.items()}
    folder = tempfile.TemporaryDirectory()
    (Path(folder.name) / MAP).symlink_to((MODELS / MAP).resolve())
    command = [sys.executable, "-m", module, "--models", folder.name]
    with on_core(core):
        process = subprocess.Popen(
            [*command, "--http-port", "0", "--grpc-port", "0", "--log-format", "json"],
            stderr=subprocess.PIPE,
            text=True,
            env=clean | given,
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
        folder.cleanup()


@contextlib.contextmanager
def running_peers(
    names: Iterable[str], core: int, missing: dict[str, str]
) -> Iterator[list[PeerServer]]:
    """Those of the peers that can be had; of the others, `missing` is told why not."""
    answer = pb.ActResponse(action=1, next_hidden=bytes(4 * HIDDEN_DIM)).SerializeToString()
    dims = {"obs_dim": OBS_DIM, "n_actions": N_ACTIONS, "hidden_dim": HIDDEN_DIM}
    step = some_step(MODEL, dims, answer)
    with contextlib.ExitStack() as stack:
        found = []
        for name in names:
            try:
                with on_core(core):
                    found.append(stack.enter_context(start(name, step)))
            except PeerUnavailableError as error:
                missing[name] = str(error)
        yield found


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


def show_starts(starts: list[Start]) -> None:
    print("\n| server | up after, s | memory after the load, MB | processes |")
    print("|---|---|---|---|")
    for it in starts:
        print(f"| {it.server} | {it.start_s:.2f} | {it.memory_mb:.0f} | {it.processes} |")


def take_turns(
    command: Command,
    servers: Sequence[Server],
    peers: Sequence[PeerServer],
    failed: dict[str, str],
) -> list[Figure]:
    """Every figure of a round, then every one again; returns the medians.

    A peer's door that fails is left alone from then on; `failed` is told why.
    """
    batched, unbatched = servers
    ours = {batched.name, unbatched.name}
    rounds: dict[tuple[str, str, int], list[Figure]] = {}
    for _ in range(command.rounds):
        for door in doors():
            if command.doors and door.name not in command.doors:
                continue
            for connections in command.connections:
                turns = [(batched, door)]
                if 1 < connections * door.rows <= MOST_UNBATCHED:
                    turns.append((unbatched, door))
                turns += [
                    (Server(peer.name, peer.pid, ""), driven(door.name, peer.doors[door.name]))
                    for peer in peers
                    if door.name in peer.doors and f"{peer.name}, {door.name}" not in failed
                ]
                for server, its_door in turns:
                    try:
                        figure = measure(its_door, server, connections, command.seconds)
                    except RuntimeError as error:
                        if server.name in ours:
                            raise
                        failed[f"{server.name}, {door.name}"] = last_line(str(error))
                        continue
                    rounds.setdefault((door.name, server.name, connections), []).append(figure)
                    print(".", end="", flush=True)
    print()
    return [median(found) for found in rounds.values()]


def driven(name: str, drive: Callable[[int, int], Load]) -> Door:
    """A peer's counterpart of a door; the peer's address is known to `drive`."""
    return Door(name, 1, lambda _, connections, seconds: drive(connections, seconds))


def main(command: Command) -> None:
    missing = [tool for tool in ("wrk", "h2load") if shutil.which(tool) is None]
    if missing or len(os.sched_getaffinity(0)) < 2:
        print("skipped: needs two cores, and wrk and h2load (Debian: wrk, nghttp2-client)")
        return
    core, load_core = sorted(os.sched_getaffinity(0))[:2]
    skipped: dict[str, str] = {}
    with running_peers(command.peers, core, skipped) as peers:
        begun = time.perf_counter()
        with running(OURS, core) as batched:
            start_s = time.perf_counter() - begun
            with running("max_batch=1", core, max_batch=1) as unbatched, on_core(load_core):
                figures = take_turns(command, (batched, unbatched), peers, skipped)
            starts = [Start(OURS, start_s, *memory(batched.pid))]
            starts += [Start(peer.name, peer.start_s, *memory(peer.pid)) for peer in peers]
    show(figures)
    for what, why in skipped.items():
        print(f"skipped: {what}: {why}")
    show_starts(starts)
    verdicts = compare(figures, starts)
    show_verdicts(verdicts)
    command.json_path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "rounds": command.rounds,
        "seconds": command.seconds,
        "load_average": os.getloadavg(),
        "figures": [asdict(figure) for figure in figures],
        "starts": [asdict(it) for it in starts],
        "bars": [asdict(verdict) for verdict in verdicts],
        "skipped": skipped,
    }
    command.json_path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Command))
