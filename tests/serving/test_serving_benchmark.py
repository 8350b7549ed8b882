"""The benchmark of the service: it measures what it says, and fails where steps are refused."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.peers.naive_fastapi import create_app
from benchmarks.serving import Door, Server, _sum, measure, median
from benchmarks.serving_bars import Figure
from benchmarks.serving_load import Load, call, post, post_on_time, stream
from serving.models.agent_model import AgentModel, Row, StepResult
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from tests.serving.running import RunningServer

OBS = np.linspace(-1, 1, 7, dtype="<f4")
MASK = [False, True, True, False, True]
STEP = {"obs": OBS.tobytes(), "avail_actions": bytes(MASK)}
SHOWN = """# TYPE unmix_requests counter
unmix_requests_total{code="invalid_request",door="rest"} 2.0
unmix_requests_total{code="abandoned",door="rest"} 5.0
unmix_requests_total{code="ok",door="grpc_team"} 640.0
unmix_requests_total{code="ok",door="rest"} 10.0
"""
needs_tools = pytest.mark.skipif(
    not (shutil.which("wrk") and shutil.which("h2load")), reason="wrk and h2load are not installed"
)


def served(server: RunningServer) -> Server:
    return Server("tiny", server.process.pid, server.rest, server.grpc)


def test_the_services_counters_are_read_by_name_and_label() -> None:
    assert _sum(SHOWN, r'unmix_requests_total\{code="ok".*') == 650
    assert _sum(SHOWN, r'unmix_requests_total\{code="(?!ok|abandoned).*') == 2
    assert _sum(SHOWN, r"unmix_requests\b.*") == 0


def test_every_number_is_the_middle_one_of_its_own() -> None:
    rounds = [
        Figure("door", "server", 64, rate, latency, 0.0, 0.0, 0.0, 0.0)
        for rate, latency in ((1.0, 9.0), (3.0, 7.0), (2.0, 8.0))
    ]
    assert median(rounds) == Figure("door", "server", 64, 2.0, 8.0, 0.0, 0.0, 0.0, 0.0)


async def test_the_naive_server_gives_the_same_steps(models: Path, model: AgentModel) -> None:
    body = {"obs": OBS.tolist(), "avail_actions": MASK, "last_action": 3, "hidden": [0.5] * 6}
    app = httpx.ASGITransport(create_app(str(models / "tiny" / "1" / "model.onnx")))
    async with httpx.AsyncClient(transport=app, base_url="http://naive") as client:
        answer = (await client.post("/agents/2/act", json=body)).json()
    row = Row(OBS.tobytes(), bytes(MASK), 3, 2, np.full(6, 0.5, "<f4").tobytes())
    (expected,) = model.step([row])
    assert isinstance(expected, StepResult)
    assert answer["action"] == expected.action
    assert np.array(answer["next_hidden"], "<f4").tobytes() == expected.next_hidden


def test_streams_are_measured_by_the_messages_after_the_first(server: RunningServer) -> None:
    units = [0, 1, 2]
    rows = pb.TeamStreamRequest(units=units, obs=OBS.tobytes() * 3, avail_actions=bytes(MASK) * 3)
    begin = pb.TeamStreamRequest(begin=pb.TeamBegin(units=units, agent_ids=units))
    request, first = rows.SerializeToString(), begin.SerializeToString()
    door = Door("team", 3, lambda it, n, s: stream(it.grpc, 3, first, request, n, s))
    figure = measure(door, served(server), connections=2, seconds=1)
    assert figure.messages_per_s > 10
    assert figure.actions_per_s == pytest.approx(3 * figure.messages_per_s)
    assert 0 < figure.p50_ms <= figure.p99_ms
    assert figure.cpu_us_per_action > 0
    assert 3 <= figure.rows_per_run <= 6


def test_a_stream_that_is_refused_fails_the_run(server: RunningServer) -> None:
    step = pb.ActStreamRequest(**STEP).SerializeToString()  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="a stream's first request needs begin"):
        stream(server.grpc, 0, step, step, 1, 1)
    team = pb.TeamStreamRequest(units=[5]).SerializeToString()
    door = Door("team", 1, lambda it, n, s: stream(it.grpc, 1, team, team, n, s))
    with pytest.raises(RuntimeError, match="steps were refused"):
        measure(door, served(server), connections=1, seconds=1)


@needs_tools
def test_single_calls_are_measured_by_the_tools(server: RunningServer) -> None:
    body = json.dumps({"obs": OBS.tolist(), "avail_actions": MASK}).encode()
    unary = pb.ActRequest(**STEP).SerializeToString()  # type: ignore[arg-type]
    loads: list[Load] = [
        post(f"{server.rest}/agents/0/act", body, 2, 1),
        call(server.grpc, unary, 2, 1),
    ]
    for load in loads:
        assert load.n > 10
        assert 0.9 < load.seconds < 3
        assert 0 < load.p50_ms <= load.p99_ms


@needs_tools
def test_what_the_service_refuses_fails_the_run(server: RunningServer) -> None:
    with pytest.raises(RuntimeError, match="refused some of the load"):
        post(f"{server.rest}/agents/9/act", b"{}", 1, 1)
    bad = pb.ActRequest(obs=b"").SerializeToString()
    door = Door("act", 1, lambda it, n, s: call(it.grpc, bad, n, s))
    with pytest.raises(RuntimeError, match="steps were refused"):
        measure(door, served(server), connections=1, seconds=1)


class Slow(BaseHTTPRequestHandler):
    """Takes a fifth of a second over each request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0.2)
        self.send_response(200 if self.path == "/good" else 429)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_request_is_timed_from_when_it_was_due(slow: str) -> None:
    # Ten are due, one each 100 ms, and the only connection takes 200 ms over each: number k, from
    # 0, is answered 200 (k + 1) - 100 k ms after it was due.
    load = post_on_time(f"{slow}/good", b"{}", rate=10, connections=1, seconds=1)
    assert load.n == 10
    assert load.seconds >= 2
    assert load.p50_ms >= 650
    assert load.p99_ms >= 1100


def test_who_is_refused_on_time_fails_the_run(slow: str) -> None:
    with pytest.raises(RuntimeError, match=r"of 10 requests some failed; by status: \{429: 10\}"):
        post_on_time(f"{slow}/bad", b"{}", rate=10, connections=1, seconds=1)
