"""Three replicas behind HAProxy, one of them killed every few seconds: what do callers notice?

    python -m benchmarks.replicas [--seconds 60] [--kill-every 10]

Units play through `deploy/haproxy/haproxy.cfg`, over REST and gRPC, with sealed memory that they
carry and with memory that a replica holds, and go on by themselves when something breaks (`Retry`).
Every action is compared with that of a twin that nothing happens to. A session is one unit's
episode, as long as the run; it is lost if one of its steps fails for good.

Needs HAProxy (Debian: haproxy).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro

from serving.client import Memory, ServingClientError, connect
from serving.client.retry import Retry
from serving.models.agent_model import AgentModel, Row, StepResult
from serving.models.repository import load_model

CONFIG = Path(__file__).parent.parent / "deploy" / "haproxy" / "haproxy.cfg"
START_S = 60.0
NAMES = ("ONE", "TWO", "THREE")
WAYS: tuple[tuple[str, Memory], ...] = (
    ("http", "carried"), ("grpc", "carried"), ("http", "held"), ("grpc", "held"),
)  # fmt: skip
PATIENT = Retry(tries=100, longest_wait_s=0.5)


@dataclass(frozen=True)
class Command:
    """Kill replicas under load."""

    seconds: float = 60
    """Of play."""
    kill_every: float = 10
    """Seconds between two SIGKILLs, one replica after the other; each is started again at once."""
    units: int = 16
    """Of each kind: REST and gRPC, memory carried and held."""
    steps_per_s: float = 10
    """Of each unit."""
    model: Path = Path("models/3s5z/1")
    json_path: Path = Path("benchmarks/results/replicas.json")


@dataclass
class Played:
    """What one unit saw."""

    agent_id: int
    seed: int
    """Of what it sees."""
    actions: list[int] = field(default_factory=list)
    longest_s: float = 0.0
    """Its slowest step."""
    lost: str = ""
    """What ended it too soon."""


@dataclass(frozen=True)
class Result:
    """What the units of one kind saw."""

    door: str
    memory: str
    sessions: int
    steps: int
    lost_sessions: int
    wrong_actions: int
    longest_step_s: float


class Replica:
    """A server that is started again and again at the same ports."""

    def __init__(self, models: Path, keys: Path, log: Path) -> None:
        self._models, self._keys, self._log = models, keys, log
        self.rest_port, self.grpc_port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        clean = {key: it for key, it in os.environ.items() if not key.startswith("UNMIX_")}
        command = [sys.executable, "-m", "serving.server", "--models", str(self._models)]
        ports = ["--http-port", str(self.rest_port), "--grpc-port", str(self.grpc_port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *ports, "--log-format", "json"],
                stderr=log,
                env=clean | {"UNMIX_MEMORY_KEYS": str(self._keys), "UNMIX_DRAIN_DELAY_S": "1"},
            )

    def wait(self) -> None:
        """Until it is ready. Raises: RuntimeError"""
        wait_ready(f"http://127.0.0.1:{self.rest_port}", self._log)

    def stop(self, number: signal.Signals) -> int:
        """Signal it, and wait for its end; the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(START_S)


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [it.getsockname()[1] for it in taken]


def wait_ready(url: str, log: Path) -> None:
    """Raises: RuntimeError"""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError), direct.open(f"{url}/readyz", timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{url} is not ready:\n{log.read_text()}")


@contextlib.contextmanager
def replicas(models: Path, folder: Path) -> Iterator[list[Replica]]:
    """Three, with the same keys."""
    keys = folder / "keys"
    keys.write_text(f"k {base64.b64encode(secrets.token_bytes(32)).decode()}\n")
    found = [Replica(models, keys, folder / f"{name}.log") for name in NAMES]
    with contextlib.ExitStack() as stack:
        for replica in found:
            replica.start()
            stack.callback(replica.stop, signal.SIGTERM)
        for replica in found:
            replica.wait()
        yield found


@contextlib.contextmanager
def haproxy(found: list[Replica], folder: Path) -> Iterator[tuple[int, int]]:
    """HAProxy before these; its REST and its gRPC port."""
    rest, grpc = free_ports(2)
    given = {"UNMIX_REST": f"127.0.0.1:{rest}", "UNMIX_GRPC": f"127.0.0.1:{grpc}"}
    for name, replica in zip(NAMES, found, strict=True):
        given[f"UNMIX_{name}_REST"] = f"127.0.0.1:{replica.rest_port}"
        given[f"UNMIX_{name}_GRPC"] = f"127.0.0.1:{replica.grpc_port}"
        given[f"UNMIX_{name}_PORT"] = str(replica.rest_port)
    log = folder / "haproxy.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(CONFIG)], stderr=errors, env=os.environ | given
        )
    try:
        wait_ready(f"http://127.0.0.1:{rest}", log)
        yield rest, grpc
    finally:
        process.terminate()
        process.wait(START_S)


class Sights:
    """What a unit sees, the same each time it is asked."""

    def __init__(self, model: AgentModel, seed: int) -> None:
        self._dims = model.manifest.dims
        self._random = np.random.default_rng(seed)

    def next(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """(obs [O], avail_actions [U])"""
        obs = self._random.uniform(-1, 1, self._dims.obs_dim).astype("<f4")
        mask = self._random.random(self._dims.n_actions) < 0.6
        mask[0] = True
        return obs, mask


async def play(url: str, memory: Memory, model: AgentModel, seed: int, command: Command) -> Played:
    """One unit, from now on, at its pace."""
    played = Played(seed % model.manifest.dims.n_agents, seed)
    sights = Sights(model, seed)
    loop = asyncio.get_running_loop()
    start = loop.time() + seed % 97 / 97 / command.steps_per_s  # not all at once
    async with connect(url, played.agent_id, memory, START_S, PATIENT) as unit:
        for number in itertools.count():
            due = start + number / command.steps_per_s
            if due > start + command.seconds:
                return played
            await asyncio.sleep(due - loop.time())
            asked = loop.time()
            try:
                played.actions.append(await unit.act(*sights.next()))
            except ServingClientError as error:
                played.lost = str(error)
                return played
            played.longest_s = max(played.longest_s, loop.time() - asked)
    raise AssertionError


def n_wrong(played: Played, model: AgentModel) -> int:
    """Actions that are not the undisturbed twin's."""
    sights, hidden, last, wrong = Sights(model, played.seed), model.first_hidden, -1, 0
    for action in played.actions:
        obs, mask = sights.next()
        (result,) = model.step([Row(obs.tobytes(), mask.tobytes(), last, played.agent_id, hidden)])
        assert isinstance(result, StepResult)
        hidden, last = result.next_hidden, result.action
        wrong += action != last
    return wrong


async def kill_again_and_again(found: list[Replica], command: Command) -> int:
    """Kill one after the other, as long as is played; how many times."""
    end = time.monotonic() + command.seconds
    for number in itertools.count():
        await asyncio.sleep(command.kill_every)
        if time.monotonic() > end - command.kill_every / 2:
            return number
        victim = found[number % len(found)]
        await asyncio.to_thread(victim.stop, signal.SIGKILL)
        victim.start()
    raise AssertionError


async def play_all(
    ports: tuple[int, int], found: list[Replica], model: AgentModel, command: Command
) -> tuple[list[list[Played]], int]:
    """(what the units saw, a list for each of `WAYS`; how many replicas were killed)"""
    name = model.manifest.name
    urls = {
        "http": f"http://127.0.0.1:{ports[0]}/{name}",
        "grpc": f"grpc://127.0.0.1:{ports[1]}/{name}",
    }
    units = [
        play(urls[scheme], memory, model, place * command.units + number, command)
        for place, (scheme, memory) in enumerate(WAYS)
        for number in range(command.units)
    ]
    played, n_killed = await asyncio.gather(
        asyncio.gather(*units), kill_again_and_again(found, command)
    )
    size = command.units
    return [played[at : at + size] for at in range(0, len(played), size)], n_killed


def run(command: Command) -> tuple[list[Result], int]:
    """(what each kind of unit saw, how many replicas were killed). Raises: RuntimeError"""
    model = load_model(command.model)
    models = command.model.parent.parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with replicas(models, folder) as found, haproxy(found, folder) as ports:
            played, n_killed = asyncio.run(play_all(ports, found, model, command))
            for replica in found:
                replica.wait()
    return judge(played, model), n_killed


def judge(played: list[list[Played]], model: AgentModel) -> list[Result]:
    """What `play_all` brought, beside the undisturbed twins."""
    results = []
    for (scheme, memory), units in zip(WAYS, played, strict=True):
        for unit in units:
            if unit.lost:
                print(f"lost: {scheme}, {memory}: {unit.lost}", file=sys.stderr)
        results.append(
            Result(
                {"http": "REST", "grpc": "gRPC"}[scheme],
                memory,
                len(units),
                sum(len(unit.actions) for unit in units),
                sum(bool(unit.lost) for unit in units),
                sum(n_wrong(unit, model) for unit in units),
                max(unit.longest_s for unit in units),
            )
        )
    return results


def main(command: Command) -> None:
    if shutil.which("haproxy") is None:
        print("skipped: HAProxy is not installed (Debian: apt-get install haproxy)")
        return
    results, n_killed = run(command)
    print(f"{n_killed} times one of three replicas was killed, in {command.seconds:g} s")
    print("| door | memory | sessions | steps | lost sessions | wrong actions | longest step s |")
    print("|---|---|---|---|---|---|---|")
    for it in results:
        print(f"| {it.door} | {it.memory} | {it.sessions} | {it.steps:,} | {it.lost_sessions} | "
              f"{it.wrong_actions} | {it.longest_step_s:.2f} |")  # fmt: skip
    content = {
        "command": {name: str(value) for name, value in asdict(command).items()},
        "killed": n_killed,
        "load_average": os.getloadavg(),
        "results": [asdict(result) for result in results],
    }
    command.json_path.parent.mkdir(parents=True, exist_ok=True)
    command.json_path.write_text(json.dumps(content, indent=2) + "\n")
    if any(it.lost_sessions or it.wrong_actions for it in results):
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Command))
