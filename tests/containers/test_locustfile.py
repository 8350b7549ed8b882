"""The agents of locustfile.py, as users run them, against a real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from serving.keys import new_key
from tests.serving.running import RunningServer
from tests.venvs import ROOT


def locust(server: RunningServer, *arguments: str, key: str = "") -> tuple[int, list[Any]]:
    """(exit status, what locust says of each kind of request) after three seconds."""
    ended = subprocess.run(
        [
            sys.executable, "-m", "locust", "--locustfile", "locustfile.py",
            "--host", server.rest, "--grpc", server.grpc, "--headless", "--users", "6",
            "--spawn-rate", "6", "--run-time", "3s", "--step-interval", "0.02", "--json",
            "--skip-log-setup", *arguments,
        ],
        cwd=ROOT, env=os.environ | {"UNMIX_KEY": key}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr.replace("LookupError", ""), ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def test_agents_of_every_kind_step_without_a_failure(server: RunningServer) -> None:
    before = episodes(server)
    status, requests = locust(server)
    seen = {(it["method"], it["name"]): it for it in requests}
    assert set(seen) == {
        ("GET", "/models"),
        ("grpc", "ListModels"),
        ("POST", "/agents/{id}/act"),
        ("grpc", "Act"),
        ("grpc", "ActStream"),
    }
    assert status == 0
    assert all(it["num_failures"] == 0 for it in requests)
    # Two agents of each kind, fifty steps a second at most.
    for kind in (("POST", "/agents/{id}/act"), ("grpc", "Act"), ("grpc", "ActStream")):
        assert 10 <= seen[kind]["num_requests"] <= 600
    # Carried and held: as many steps as the service counted, none refused.
    stepped = sum(it["num_requests"] for it in requests) - 6
    assert 0 <= episodes(server) - before - stepped <= 6  # the last may have been cut off


def test_agents_that_are_not_let_in_are_failures(models: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(new_key("load", ["act"])[1].line() + "\n")
    with RunningServer(models, {"keys": tmp_path / "keys"}) as server:
        status, requests = locust(server)
    assert status == 1
    assert {it["name"] for it in requests} == {"/models", "ListModels"}
    assert all(it["num_failures"] == it["num_requests"] for it in requests)


def episodes(server: RunningServer) -> float:
    """Steps that the service has answered."""
    text = httpx.get(f"{server.rest}/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("unmix_requests_total")]
    return sum(float(line.split()[-1]) for line in lines if 'code="ok"' in line)
