"""The servers measured beside the service, and the verdicts over a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import PeerUnavailableError, servers
from benchmarks.peers.open_inference import as_json, as_protobuf
from benchmarks.peers.servers import Step, some_step, start
from benchmarks.processes import cpu_seconds, family, memory
from benchmarks.serving_bars import OURS, REST, STREAM, Figure, Start, Verdict, compare

DIMS = {"obs_dim": 7, "n_actions": 5, "hidden_dim": 6}
TWO = {"ab": np.array([[1.0, -2.0]], "<f4"), "c": np.array([[True]])}


@pytest.fixture
def step(models: Path) -> Step:
    return some_step(models / "tiny" / "1" / "model.onnx", DIMS, b"the answer")


def figure(door: str, server: str, connections: int, rate: float, p50_ms: float) -> Figure:
    return Figure(door, server, connections, rate, rate, p50_ms, 0.0, 0.0, 0.0)


def test_bars_are_met_by_ratios_of_one_run_and_missed_by_a_hair() -> None:
    figures = [
        figure(REST, OURS, 64, 800.0, 9.0),
        figure(REST, "naive FastAPI", 64, 100.0, 9.0),
        figure(REST, "Triton", 64, 400.0, 9.0),
        figure(STREAM, OURS, 1, 5.0, 0.30),
        figure(STREAM, "Triton", 1, 5.0, 0.40),
    ]
    found = {it.what: it for it in compare(figures, [Start(OURS, 1.0, 100.5, 1)])}
    assert found["REST at 64 over naive FastAPI"].found == 8.0
    assert found["REST at 64 over naive FastAPI"].met is True
    assert found["REST at 64 over Triton"].found == 2.0
    assert found["REST at 64 over Triton"].met is False
    assert found["gRPC ActStream, one caller, p50 over Triton's"].met is False
    assert found["cold start, s"].met is True
    assert found["memory, MB"].met is False
    assert found["gRPC Act at 64 over Triton"] == Verdict(
        "gRPC Act at 64 over Triton", "at least", 2, None
    )
    assert found["gRPC Act at 64 over Triton"].met is None


def test_a_step_in_the_open_inference_protocol() -> None:
    assert as_json(TWO) == (
        b'{"inputs": [{"name": "ab", "shape": [1, 2], "datatype": "FP32", "data": [1.0, -2.0]}, '
        b'{"name": "c", "shape": [1, 1], "datatype": "BOOL", "data": [true]}]}'
    )
    # By hand, from the protocol's field numbers.
    ab = b"\x2a\x0e" + b"\x0a\x02ab" + b"\x12\x04FP32" + b"\x1a\x02\x01\x02"
    c = b"\x2a\x0d" + b"\x0a\x01c" + b"\x12\x04BOOL" + b"\x1a\x02\x01\x01"
    raw = b"\x3a\x08" + b"\0\0\x80\x3f\0\0\0\xc0" + b"\x3a\x01\x01"
    assert as_protobuf("m", TWO) == b"\x0a\x01m" + ab + c + raw
    sequence = b"\x22\x12" + b"\x0a\x0bsequence_id" + b"\x12\x03" + b"\x1a\x01x"
    begin = b"\x22\x14" + b"\x0a\x0esequence_start" + b"\x12\x02" + b"\x08\x01"
    assert as_protobuf("m", TWO, b"x", start=True) == b"\x0a\x01m" + sequence + begin + ab + c + raw
    long = {"a": np.zeros((1, 100), "<f4")}
    assert b"\x3a\x90\x03" + bytes(400) in as_protobuf("m", long)


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    child = "import sys; sum(range(10**6)); print(); sys.stdin.read()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.communicate("")


def test_what_a_server_has_started_counts_as_its_own(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    parent.stdout.readline()
    members = family(parent.pid)
    assert members[0] == parent.pid
    assert len(members) == 2
    megabytes, n = memory(parent.pid)
    assert n == 2
    assert megabytes == pytest.approx(sum(memory(it)[0] for it in members[1:]), abs=30)
    assert cpu_seconds(parent.pid) >= cpu_seconds(members[1]) > 0


@pytest.mark.parametrize("name", ["naive FastAPI, def", "bare grpcio"])
def test_a_peer_is_up_once_it_has_answered_rightly_and_gone_afterwards(
    name: str, step: Step
) -> None:
    with start(name, step) as peer:
        assert 0 < peer.start_s < 60
        assert peer.doors
        pid = peer.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_peer_that_answers_something_else_is_not_measured(
    step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = step.action()
    monkeypatch.setattr(Step, "action", lambda _: right + 1)
    with pytest.raises(PeerUnavailableError, match=f"answers action {right} for {right + 1}"):
        start("naive FastAPI", step).__enter__()


def test_why_a_peer_cannot_be_had_is_said(
    step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "DEBIAN_PYTHON", "/nowhere/python3")
    monkeypatch.setattr("benchmarks.peers.FOLDER", tmp_path)
    with (
        pytest.raises(PeerUnavailableError, match=r"cannot be installed: .*/nowhere/python3"),
        start("Triton", step),
    ):
        pass
    broken = Step(step.model.with_name("absent.onnx"), step.tensors, step.answer)
    with (
        pytest.raises(PeerUnavailableError, match=r"does not answer: .*it said: .*absent\.onnx"),
        start("naive FastAPI", broken),
    ):
        pass
