"""The service's two fronts beside each other, on one core: grpcio and uvicorn, and Envoy.

    python -m benchmarks.fronts [--seconds 2] [--rounds 3] [--json-path PATH]

As `benchmarks.serving`, whose figures these are: the server has the first core, the load the
second, the two fronts take turns and medians count. Unit streams are driven by `stream_load.c`,
which is compiled for it; REST also as octets, beside JSON. Needs wrk, h2load, gcc and
libnghttp2-dev (Debian: wrk, nghttp2-client, gcc, libnghttp2-dev).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.serving import (
    HIDDEN_DIM,
    MODELS,
    N_ACTIONS,
    OBS_DIM,
    Door,
    Server,
    measure,
    median,
    on_core,
    show,
)
from benchmarks.serving import doors as all_doors
from benchmarks.serving_bars import Figure
from benchmarks.serving_load import METHOD, Load, post
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.rest.binary import MAGIC, OCTETS

PER_CONNECTION = 8
"""Streams over one connection, where there are as many."""


@dataclass(frozen=True)
class Command:
    """Measure both fronts."""

    seconds: int = 2
    """Of load per figure and round."""
    rounds: int = 3
    """Rounds; the median counts."""
    callers: tuple[int, ...] = (1, 64)
    """At once."""
    json_path: Path = Path("benchmarks/results/fronts.json")


@contextlib.contextmanager
def running(front: str, models: Path, core: int) -> Iterator[Server]:
    """The step service behind a front."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("UNMIX_")}
    command = [sys.executable, "-m", "serving.server", "--models", str(models), "--front", front]
    with on_core(core):
        process = subprocess.Popen(
            [*command, "--http-port", "0", "--grpc-port", "0", "--log-format", "json"],
            stderr=subprocess.PIPE,
            text=True,
            env=clean,
        )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "ready":
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
                pid = int(children) if front == "envoy" else process.pid
                yield Server(front, pid, event["rest"], event["grpc"].removeprefix("grpc://"))
                break
        else:
            raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.communicate()


def doors(stream_load: Path, folder: Path) -> list[Door]:
    """Of `benchmarks.serving`, and those that it does not have."""
    random = np.random.default_rng(0)
    obs = random.uniform(-1, 1, OBS_DIM).astype("<f4").tobytes()
    mask = bytes([1] * N_ACTIONS)
    hidden = random.uniform(-0.9, 0.9, HIDDEN_DIM).astype("<f4").tobytes()
    first, following = folder / "first", folder / "next"
    step = pb.ActStreamRequest(obs=obs, avail_actions=mask)
    following.write_bytes(step.SerializeToString())
    step.begin.CopyFrom(pb.Episode(agent_id=0))
    first.write_bytes(step.SerializeToString())
    sizes = struct.pack("<7I", 1, len(obs), N_ACTIONS, len(hidden), 0, 0, 0)
    octets = MAGIC + sizes + struct.pack("<i", 1) + obs + mask + hidden

    def stream(server: Server, callers: int, seconds: int) -> Load:
        host, port = server.grpc.rsplit(":", 1)
        each = min(callers, PER_CONNECTION)
        command = [
            str(stream_load),
            host,
            port,
            f"{METHOD}ActStream",
            str(callers // each),
            str(each),
        ]
        files = [str(seconds), str(first), str(following)]
        ended = subprocess.run([*command, *files], check=True, capture_output=True, text=True)
        return Load(**json.loads(ended.stdout))

    kept = {door.name: door for door in all_doors()}
    return [
        kept["REST POST /agents/0/act"],
        Door(
            "the same as octets",
            1,
            lambda server, n, s: post(f"{server.rest}/agents/0/act", octets, n, s, OCTETS),
        ),
        kept["gRPC Act"],
        Door("gRPC ActStream", 1, stream),
    ]


def main(command: Command) -> None:
    missing = [tool for tool in ("wrk", "h2load", "gcc") if shutil.which(tool) is None]
    if missing or len(os.sched_getaffinity(0)) < 2:
        print("skipped: needs two cores, wrk, h2load, gcc, libnghttp2-dev")
        return
    core, load_core = sorted(os.sched_getaffinity(0))[:2]
    rounds: dict[tuple[str, str, int], list[Figure]] = {}
    with tempfile.TemporaryDirectory() as folder:
        stream_load = Path(folder) / "stream_load"
        source = Path(__file__).with_name("stream_load.c")
        subprocess.run(["gcc", "-O2", "-o", stream_load, source, "-lnghttp2"], check=True)
        measured = doors(stream_load, Path(folder))
        models = Path(folder) / "models"
        shutil.copytree(MODELS / "3s5z", models / "3s5z")  # alone, so that nobody has to name it
        with (
            running("grpcio", models, core) as plain,
            running("envoy", models, core) as envoy,
            on_core(load_core),
        ):
            for _ in range(command.rounds):
                for door in measured:
                    for callers in command.callers:
                        for server in (plain, envoy):
                            figure = measure(door, server, callers, command.seconds)
                            key = door.name, server.name, callers
                            rounds.setdefault(key, []).append(figure)
                            print(".", end="", flush=True)
    print()
    figures = [median(found) for found in rounds.values()]
    show(figures)
    command.json_path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "rounds": command.rounds,
        "seconds": command.seconds,
        "load_average": os.getloadavg(),
        "figures": [asdict(figure) for figure in figures],
    }
    command.json_path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Command))
