"""The process: how it starts, how it refuses to, how it ends."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from serving.client import ServingClientError, Units
from serving.models import device as device_module
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc
from serving.settings import Settings, SetupError
from tests.artifacts import write_artifact
from tests.serving.running import RunningServer

OBS = np.linspace(-1, 1, 7, dtype="<f4")
MASK = np.array([False, True, True, False, True])


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving.server", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"} | environment,
    )


def test_help_names_every_flag_and_setting() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for flag in ("--models", "--host", "--http-port", "--grpc-port", "--device", "--log-level"):
        assert flag in shown.stdout
    flat = " ".join(shown.stdout.split())
    for field in Settings.model_fields:
        assert f"UNMIX_{field.upper()}" in flat


def test_settings_come_from_the_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_MAX_QUEUE", "7")
    settings = Settings(http_port=1)
    monkeypatch.setenv("UNMIX_MAX_QUEUE", "8")
    assert (settings.max_queue, settings.http_port, settings.grpc_port) == (7, 1, 50051)
    with pytest.raises(ValidationError):
        settings.max_queue = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (["--models", "/nothing/here"], {}, 1, "no usable model in /nothing/here"),
        (["--http-port", "70000"], {}, 2, "setting http_port"),
        (["--device", "tpu"], {}, 2, "setting device"),
        ([], {"UNMIX_MAX_BATCH": "0"}, 2, "setting max_batch"),
        (["--nonsense"], {}, 2, "--nonsense"),
    ],
)
def test_a_start_that_cannot_be_says_why(
    arguments: list[str], environment: dict[str, str], code: int, words: str
) -> None:
    ended = run(*arguments, **environment)
    assert ended.returncode == code
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_repository_of_broken_models_only_is_no_start(tmp_path: Path) -> None:
    (write_artifact(tmp_path) / "model.onnx").write_bytes(b"junk")
    ended = run("--models", str(tmp_path), "--log-format", "json")
    assert ended.returncode == 1
    assert "model.onnx is not the file that the manifest describes" in ended.stderr
    assert "no usable model" in ended.stderr


def test_a_gpu_that_is_not_there_is_no_start(models: Path) -> None:
    ended = run("--models", str(models), "--device", "cuda")
    assert ended.returncode == 1
    assert "cannot start: device cuda: " in ended.stderr
    assert "pip install 'unmix[serve-gpu]'" in ended.stderr
    assert "--device cpu" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_no_start(server: RunningServer, models: Path) -> None:
    for door, address in (("http", server.rest), ("grpc", server.grpc)):
        other = "grpc" if door == "http" else "http"
        port = address.rpartition(":")[2]
        ended = run("--models", str(models), f"--{door}-port", port, f"--{other}-port", "0")
        assert ended.returncode == 1
        assert f"port {port}" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_two_engines_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime", "onnxruntime-gpu"}

    def distribution(name: str) -> object:
        if name in installed:
            return object()
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", distribution)
    with pytest.raises(SetupError, match="pip uninstall -y onnxruntime"):
        device_module.check_engine()
    for one in ("onnxruntime", "onnxruntime-gpu"):
        installed.clear()
        installed.add(one)
        device_module.check_engine()


def test_the_start_says_which_provider_runs_which_model(server: RunningServer) -> None:
    # (gRPC has words of its own for stderr.)
    said = [json.loads(line) for line in server.log if line.startswith("{")]
    events = {event["event"]: event for event in said}
    loaded = events["model loaded"]
    assert (loaded["model"], loaded["version"]) == ("tiny", 1)
    assert loaded["provider"] == "CPUExecutionProvider"
    assert events["ready"]["models"] == ["tiny/1"]
    assert events["ready"]["providers"] == ["CPUExecutionProvider"]


def test_sigterm_turns_away_finishes_and_exits_0(models: Path) -> None:
    running = RunningServer(models, {"drain_delay_s": 1.5})
    with running, httpx.Client(base_url=running.rest, trust_env=False) as http:
        channel = grpc.insecure_channel(running.grpc)
        agents: Any = pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="unmix.v1.AgentService"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        requests: queue.SimpleQueue[pb.ActStreamRequest | None] = queue.SimpleQueue()
        stream = agents.ActStream(iter(requests.get, None))
        body = {"obs": OBS.tolist(), "avail_actions": MASK.tolist()}
        step = pb.ActStreamRequest(obs=OBS.tobytes(), avail_actions=MASK.tobytes())
        requests.put(pb.ActStreamRequest(begin=pb.Episode()))
        assert next(stream).model == "tiny"
        assert http.get("/readyz").status_code == 200
        assert http.post("/agents/0/act", json=body).status_code == 200

        start = time.monotonic()
        running.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert time.monotonic() - start < 0.5
        assert http.get("/readyz").status_code == 503
        assert http.get("/livez").status_code == 200
        refused = http.post("/agents/0/act", json=body)
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:unmix:problem:shutting-down"
        assert refused.headers["retry-after"] == "1"
        assert http.post("/sessions", json={"agent_id": 0}).status_code == 503
        requests.put(step)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError) as caught:
            agents.Act(pb.ActRequest(obs=OBS.tobytes(), avail_actions=MASK.tobytes()))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert running.process.wait(10) == 0
        assert 1.4 < time.monotonic() - start < 4
        channel.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_that_wait_do_not_hold_up_the_end(models: Path, number: signal.Signals) -> None:
    with RunningServer(models) as running, grpc.insecure_channel(running.grpc) as channel:
        agents: Any = pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
        queues: list[queue.SimpleQueue[pb.ActStreamRequest | None]] = [
            queue.SimpleQueue() for _ in range(8)
        ]
        streams = [agents.ActStream(iter(requests.get, None)) for requests in queues]
        for stream, requests in zip(streams, queues, strict=True):
            requests.put(pb.ActStreamRequest(begin=pb.Episode()))
            assert next(stream).model == "tiny"
        start = time.monotonic()
        running.process.send_signal(number)
        for stream, requests in zip(streams, queues, strict=True):
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "shutting down" in str(caught.value.details())
            requests.put(None)
        assert running.process.wait(10) == 0
        assert time.monotonic() - start < 3


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_sigterm_under_load_loses_no_step_that_was_taken(models: Path, scheme: str) -> None:
    """Every step is either answered or refused as unavailable; none is left hanging."""
    with RunningServer(models) as running:
        address = running.grpc if scheme == "grpc" else running.rest.removeprefix("http://")
        outcomes: list[str] = []
        started = threading.Event()

        def play() -> None:
            with Units(f"{scheme}://{address}/tiny", [0, 1, 2] * 5, "carried") as units:
                obs, mask = np.tile(OBS, (15, 1)), np.tile(MASK, (15, 1))
                while True:
                    try:
                        units.act(obs, mask)
                    except ServingClientError as error:
                        outcomes.append(error.status)
                        return
                    started.set()

        player = threading.Thread(target=play)
        player.start()
        assert started.wait(10)
        running.terminate()
        player.join(20)
        assert not player.is_alive()
        assert outcomes[0] in {"503", "UNAVAILABLE", "UNREACHABLE"}
        assert running.process.wait(10) == 0
