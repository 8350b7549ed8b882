"""The agents of locustfile.py, as users run them, against a real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.keys import new_key
from tests.serving.running import RunningServer
from tests.venvs import ROOT


@pytest.fixture(scope="module")
def key() -> tuple[str, str]:
    """(the key, its line in the service's file)"""
    text, line = new_key("load", ["act", "observe"])
    return text, line.line()


@pytest.fixture(scope="module")
def locked(
    tmp_path_factory: pytest.TempPathFactory, models: Path, key: tuple[str, str]
) -> Iterator[RunningServer]:
    """A service that wants the key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(key[1] + "\n")
    with RunningServer(models, {"keys": keys}) as server:
        yield server


def locust(server: RunningServer, run_time: str, key: str) -> tuple[int, list[Any]]:
    """(exit status, what locust says of each kind of request)"""
    ended = subprocess.run(
        [
            sys.executable, "-m", "locust", "--locustfile", "locustfile.py",
            "--host", server.rest, "--grpc", server.grpc, "--headless", "--users", "6",
            "--spawn-rate", "6", "--run-time", run_time, "--step-interval", "0.05", "--json",
            "--skip-log-setup",
        ],
        cwd=ROOT, env=os.environ | {"UNMIX_KEY": key}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr.replace("LookupError", ""), ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def test_agents_of_every_kind_step_without_a_failure(
    locked: RunningServer, key: tuple[str, str]
) -> None:
    status, requests = locust(locked, "6s", key[0])
    seen = {(it["method"], it["name"]): it for it in requests}
    steps = [("POST", "/agents/{id}/act"), ("grpc", "Act"), ("grpc", "ActStream")]
    assert set(seen) == {("GET", "/models"), ("grpc", "ListModels"), *steps}
    assert status == 0
    assert all(it["num_failures"] == 0 for it in requests)
    assert all(seen[kind]["num_requests"] > 2 for kind in steps)
    # As many steps as the service counted, but for each agent's last, which may be cut off.
    counted = sum(seen[kind]["num_requests"] for kind in steps)
    assert 0 <= answered(locked, key[0]) - counted <= 6


def test_agents_without_the_key_are_failures(locked: RunningServer) -> None:
    status, requests = locust(locked, "3s", "")
    assert status == 1
    assert {it["name"] for it in requests} <= {"/models", "ListModels"}
    assert sum(it["num_requests"] for it in requests) > 0
    assert all(it["num_failures"] == it["num_requests"] for it in requests)


def answered(server: RunningServer, key: str) -> float:
    """Steps that the service has answered."""
    headers = {"authorization": f"Bearer {key}"}
    text = httpx.get(f"{server.rest}/metrics", headers=headers, trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("unmix_requests_total")]
    return sum(float(line.split()[-1]) for line in lines if 'code="ok"' in line)
