"""Other servers of the same agent, started and ready to be loaded.

Each answers the same step; what it answers is compared with the model's own answer before anything
is measured. A server is made of a script beside this one and, but for those that need no other
packages than ours, of an environment of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.peers import HERE, PeerUnavailableError, last_line, peer_python
from benchmarks.peers.onnx_agent import OnnxAgent
from benchmarks.peers.open_inference import SERVICE, Tensors, as_json, as_protobuf
from benchmarks.serving_bars import OPEN, OPEN_RATE, REST, STREAM, UNARY
from benchmarks.serving_load import METHOD, NUMBERED, Load, call, post, post_on_time, stream

DEBIAN_PYTHON = "/usr/bin/python3"
"""Triton's Python stub brings a standard library of its own, which fits Debian 12's Python 3.11 and
not every other 3.11."""
START_S = 60.0
Drive = Callable[[int, int], Load]
"""(connections, seconds) -> what the callers saw."""


@dataclass(frozen=True)
class Step:
    """The step that everybody is asked for."""

    model: Path
    tensors: Tensors
    """The model's inputs, each [1, ...]."""
    answer: bytes
    """What the service's own gRPC door answers to it."""

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        values = {name: tensor[0].tolist() for name, tensor in self.tensors.items()}
        return values | {name: values[name][0] for name in ("last_action", "agent_id")}

    def action(self) -> int:
        return int(OnnxAgent(str(self.model)).step([self.row()])[0][0])


@dataclass
class PeerServer:
    """A peer that has answered."""

    name: str
    pid: int
    start_s: float
    """From its start to its first answer."""
    doors: dict[str, Drive] = field(default_factory=dict)


@dataclass
class _Start:
    """How to start one, and how to know that it answers rightly."""

    command: list[str]
    doors: dict[str, Drive]
    trial: Callable[[], int | None]
    """The action that it answers; None: there is none to see."""
    environment: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def start(name: str, step: Step) -> Iterator[PeerServer]:
    """A peer of `PEERS`, on the cores that this process may use.

    Raises: PeerUnavailableError: it cannot be installed or started, or answers something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        how = PEERS[name](step, Path(folder))
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MLSERVER_")}
        log = Path(folder) / "log"
        begun = time.perf_counter()
        with log.open("w") as output:
            process = subprocess.Popen(
                how.command,
                stdout=output,
                stderr=output,
                env=clean | how.environment,
                start_new_session=True,
                cwd=folder if how.environment else None,
            )
        try:
            found = _first_answer(how.trial, process, log)
            if found not in (None, step.action()):
                raise PeerUnavailableError(f"answers action {found} for {step.action()}")
            yield PeerServer(name, process.pid, time.perf_counter() - begun, how.doors)
        finally:
            _end(process)


def _first_answer(
    trial: Callable[[], int | None], process: subprocess.Popen[bytes], log: Path
) -> int | None:
    end = time.monotonic() + START_S
    while True:
        try:
            return trial()
        except (OSError, grpc.RpcError, KeyError) as error:
            if process.poll() is not None or time.monotonic() > end:
                said = last_line(log.read_text(errors="replace"))
                raise PeerUnavailableError(f"does not answer: {error}; it said: {said}") from error
            time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server, and what it has started: they are a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _naive(step: Step, _: Path, how: str) -> _Start:
    port = _free_port()
    url, body = f"http://127.0.0.1:{port}/agents/0/act", json.dumps(step.row()).encode()
    module = [sys.executable, "-m", "benchmarks.peers.naive_fastapi"]
    return _Start(
        [*module, str(step.model), str(port), how],
        rest_doors(url, body),
        lambda: _asked(url, body)["action"],
    )


def _mosec(step: Step, _: Path, max_batch: int) -> _Start:
    port = _free_port()
    url, body = f"http://127.0.0.1:{port}/inference", json.dumps(step.row()).encode()
    python = peer_python("mosec", print)
    return _Start(
        [str(python), str(HERE / "mosec_server.py"), "--port", str(port)],
        rest_doors(url, body),
        lambda: _asked(url, body)["action"],
        {"AGENT_MODEL": str(step.model), "AGENT_MAX_BATCH": str(max_batch)},
    )


def _mlserver(step: Step, folder: Path) -> _Start:
    python = peer_python("mlserver", print)
    http, rpc, metrics = _free_port(), _free_port(), _free_port()
    settings = {
        "http_port": http,
        "grpc_port": rpc,
        "metrics_port": metrics,
        "host": "127.0.0.1",
        "parallel_workers": 0,  # its worker processes do not start on this uvloop
        "debug": False,
    }
    model = {
        "name": "agent",
        "implementation": "mlserver_model.Agent",
        "parameters": {"uri": str(step.model)},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    doors, trial = _open_inference(step, http, rpc)
    return _Start(
        [str(python.with_name("mlserver")), "start", str(folder)],
        doors,
        trial,
        {"PYTHONPATH": str(HERE)},
    )


def _triton(step: Step, folder: Path) -> _Start:
    python = peer_python("triton", print, DEBIAN_PYTHON)
    (packages,) = python.parents[1].glob("lib/python3*/site-packages")
    home = packages / "pytriton" / "tritonserver"
    for name in ("agent", "agent_episodes"):
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        shutil.copy(HERE / "triton_model.py", version / "model.py")
        shutil.copy(HERE / "onnx_agent.py", version)
        (version.parent / "config.pbtxt").write_text(_triton_config(step, name))
    backend = folder / "backends" / "python"
    shutil.copytree(home / "backends" / "python", backend)
    shutil.copy(home / "python_backend_stubs" / "3.11" / "triton_python_backend_stub", backend)
    http, rpc = _free_port(), _free_port()
    ports = [f"--http-port={http}", f"--grpc-port={rpc}", "--allow-metrics=false"]
    folders = [
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={backend.parent}",
    ]
    doors, trial = _open_inference(step, http, rpc)
    tensors = {name: step.tensors[name] for name in ("obs", "avail_actions", "agent_id")}
    begin, later = (
        as_protobuf("agent_episodes", tensors, NUMBERED, start=begins) for begins in (True, False)
    )
    path = f"{SERVICE}ModelStreamInfer"
    address = f"127.0.0.1:{rpc}"
    doors[STREAM] = lambda n, seconds: stream(address, 0, begin, later, n, seconds, path)
    return _Start(
        [str(home / "bin" / "tritonserver"), *ports, *folders, "--log-verbose=0"],
        doors,
        trial,
        {
            "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
            "PYTHONPATH": str(packages),
            "PATH": f"{python.parent}:{os.environ['PATH']}",
        },
    )


def _triton_config(step: Step, name: str) -> str:
    """Carried memory and dynamic batches without delay, or sequences."""
    kinds = {"float32": "TYPE_FP32", "bool": "TYPE_BOOL", "int64": "TYPE_INT64"}
    holds = name == "agent_episodes"
    inputs = [
        f'input {{ name: "{it}" data_type: {kinds[values.dtype.name]} '
        f"dims: [ {values.shape[1]} ] }}"
        for it, values in step.tensors.items()
        if not holds or it in ("obs", "avail_actions", "agent_id")
    ]
    hidden_dim = step.tensors["hidden"].shape[1]
    outputs = ['output { name: "action" data_type: TYPE_INT64 dims: [ 1 ] }']
    parameters = {"onnx": str(step.model), "hidden_dim": str(hidden_dim)}
    if holds:
        parameters["episodes"] = "held"
        scheduler = """sequence_batching {
  oldest { max_candidate_sequences: 256 }
  control_input { name: "start" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } }
}"""
    else:
        outputs.append(
            f'output {{ name: "next_hidden" data_type: TYPE_FP32 dims: [ {hidden_dim} ] }}'
        )
        scheduler = "dynamic_batching { }"
    told = [
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in parameters.items()
    ]
    head = [f'name: "{name}"', 'backend: "python"', "max_batch_size: 64"]
    one = "instance_group [ { kind: KIND_CPU count: 1 } ]"
    return "\n".join([*head, *inputs, *outputs, scheduler, *told, one]) + "\n"


def _open_inference(
    step: Step, http: int, rpc: int
) -> tuple[dict[str, Drive], Callable[[], int | None]]:
    url, body = f"http://127.0.0.1:{http}/v2/models/agent/infer", as_json(step.tensors)
    address, request = f"127.0.0.1:{rpc}", as_protobuf("agent", step.tensors)
    path = f"{SERVICE}ModelInfer"

    def trial() -> int:
        outputs = {it["name"]: it["data"] for it in _asked(url, body)["outputs"]}
        _called(address, path, request)
        return int(outputs["action"][0])

    doors = rest_doors(url, body)
    doors[UNARY] = lambda n, seconds: call(address, request, n, seconds, path)
    return doors, trial


def rest_doors(url: str, body: bytes) -> dict[str, Drive]:
    """A URL under callers who wait for their answers, and under others who do not."""
    return {
        REST: lambda n, seconds: post(url, body, n, seconds),
        OPEN: lambda n, seconds: post_on_time(url, body, OPEN_RATE, n, seconds),
    }


def _bare_grpcio(step: Step, folder: Path) -> _Start:
    port, answer = _free_port(), folder / "answer"
    answer.write_bytes(step.answer)
    address = f"127.0.0.1:{port}"
    request = b"".join(values.tobytes() for values in step.tensors.values())

    def trial() -> None:
        if _called(address, f"{METHOD}Act", request) != step.answer:
            raise PeerUnavailableError("answers something else")

    return _Start(
        [sys.executable, "-m", "benchmarks.peers.bare_grpcio", str(port), str(answer)],
        {
            UNARY: lambda n, seconds: call(address, request, n, seconds),
            STREAM: lambda n, seconds: stream(address, 0, request, request, n, seconds),
        },
        trial,
    )


PEERS: Mapping[str, Callable[[Step, Path], _Start]] = {
    "naive FastAPI": lambda step, folder: _naive(step, folder, "async"),
    "naive FastAPI, def": lambda step, folder: _naive(step, folder, "def"),
    "mosec": lambda step, folder: _mosec(step, folder, 1),
    "mosec, batches": lambda step, folder: _mosec(step, folder, 64),
    "MLServer": _mlserver,
    "Triton": _triton,
    "bare grpcio": _bare_grpcio,
}
"""By the name in the table, how each is started."""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _asked(url: str, body: bytes) -> Any:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with direct.open(request, timeout=10) as answer:
        return json.loads(answer.read())


def _called(address: str, path: str, request: bytes) -> bytes:
    with grpc.insecure_channel(address) as channel:
        unary: Any = channel.unary_unary(path)
        return bytes(unary(request, timeout=10))


def some_step(model: Path, dims: Mapping[str, int], answer: bytes) -> Step:
    """A step of agent 0 in the middle of an episode."""
    random = np.random.default_rng(0)
    mask = random.random((1, dims["n_actions"])) < 0.6
    mask[:, 1] = True
    tensors = {
        "obs": random.uniform(-1, 1, (1, dims["obs_dim"])).astype("<f4"),
        "avail_actions": mask,
        "last_action": np.ones((1, 1), "<i8"),
        "agent_id": np.zeros((1, 1), "<i8"),
        "hidden": random.uniform(-0.9, 0.9, (1, dims["hidden_dim"])).astype("<f4"),
    }
    return Step(model.resolve(), tensors, answer)
