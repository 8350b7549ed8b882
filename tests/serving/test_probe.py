"""The health check that images carry, against real servers."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from serving.probe import TIMEOUT_S, probe
from tests.serving.certificates import Authority
from tests.serving.running import RunningServer
from tests.venvs import ROOT


def variables(url: str, **others: str) -> dict[str, str]:
    return {"UNMIX_HTTP_PORT": str(urlsplit(url).port)} | others


def test_a_ready_service_is_healthy(server: RunningServer) -> None:
    for host in ("127.0.0.1", "0.0.0.0", ""):
        assert probe(variables(server.rest, UNMIX_HOST=host)) == ""


def test_a_service_that_turns_callers_away_is_not(models: Path) -> None:
    with RunningServer(models, {"drain_delay_s": 1.0}) as draining:
        assert probe(variables(draining.rest)) == ""
        draining.terminate()
        found = ""
        while not found:  # until the signal has arrived
            found = probe(variables(draining.rest))
        assert found == "/readyz answers 503"
        draining.process.wait(30)


def test_it_asks_over_tls_where_the_service_has_it(models: Path, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("elsewhere.example")
    tls = {"tls_certificate": str(files.certificate), "tls_key": str(files.key)}
    with RunningServer(models, tls) as server:
        assert probe(variables(server.rest, UNMIX_TLS_CERTIFICATE=tls["tls_certificate"])) == ""
        assert "does not answer" in probe(variables(server.rest))


def test_the_command_says_what_is_wrong_and_exits_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serving.probe"]
    ended = subprocess.run(
        command, env={"UNMIX_HTTP_PORT": str(port)}, cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr == f"not ready: port {port} does not answer: ConnectionRefusedError\n"


@pytest.mark.parametrize("answer", [b"", b"what?\r\n\r\n", b"HTTP/1.1 500 no\r\n\r\n"])
def test_an_answer_that_makes_no_sense_is_no_health(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        threading.Thread(target=answer_once, daemon=True).start()
        assert probe({"UNMIX_HTTP_PORT": str(listener.getsockname()[1])})


def test_a_service_that_hangs_is_not_waited_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = probe({"UNMIX_HTTP_PORT": str(silent.getsockname()[1])})
    assert "does not answer: TimeoutError" in found
    assert TIMEOUT_S < 3  # the image's --timeout
