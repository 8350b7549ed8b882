"""The admin door: where it is, what it does, whom it turns away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.artifacts import Policy, write_artifact
from tests.serving.running import RunningServer
from tests.serving.test_access import write_keys
from tests.serving.test_server import run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("changing")


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[RunningServer]:
    write_artifact(root, Policy(seed=1), version=1)
    with RunningServer(root, {"admin_port": 0, "watch_models_s": 0}) as running:
        yield running


@pytest.fixture(scope="module")
def admin(running: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.admin, trust_env=False) as client:
        yield client


def states(answer: httpx.Response) -> dict[int, tuple[str, bool]]:
    assert answer.status_code == 200
    return {it["version"]: (it["state"], it["latest"]) for it in answer.json()["models"]}


def test_a_version_comes_and_goes(root: Path, running: RunningServer, admin: httpx.Client) -> None:
    assert running.admin.startswith("http://127.0.0.1:")
    (only,) = admin.get("/models").json()["models"]
    assert only["provider"] == "CPUExecutionProvider"
    assert len(only["sha256"]) == 64
    opened = httpx.post(f"{running.rest}/sessions", json={"agent_id": 0}, trust_env=False).json()
    write_artifact(root, Policy(seed=2), version=2)
    loaded = admin.post("/models/tiny/2/load")
    assert (loaded.status_code, loaded.json()["state"], loaded.json()["latest"]) == (
        200,
        "ready",
        True,
    )
    unloaded = admin.post("/models/tiny/1/unload")
    assert (unloaded.status_code, unloaded.json()["state"]) == (200, "retiring")
    assert unloaded.json()["episodes"] == 1
    shown = httpx.get(f"{running.rest}/models/tiny/versions/1", trust_env=False).json()
    assert (shown["state"], shown["latest"]) == ("retiring", False)
    httpx.delete(f"{running.rest}/sessions/{opened['session']}", trust_env=False)
    end = time.monotonic() + 10
    while 1 in states(admin.get("/models")):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert states(admin.get("/models")) == {2: ("ready", True)}


def test_a_bad_artifact_is_refused_with_the_reason(root: Path, admin: httpx.Client) -> None:
    folder = write_artifact(root, Policy(seed=3), version=3)
    (folder / "model.onnx").write_bytes(b"junk")
    refused = admin.post("/models/tiny/3/load")
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["detail"] == "model.onnx is not the file that the manifest describes"
    before = states(admin.get("/models"))
    assert before[3] == ("refused", False)
    shutil.rmtree(folder)
    write_artifact(root, Policy(seed=3), version=3)
    assert states(admin.post("/models/scan"))[3] == ("ready", True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/models/tiny/9/load", 404),
        ("POST", "/models/tiny/9/unload", 404),
        ("POST", "/models/tiny/x/load", 404),
        ("POST", "/models/tiny/-1/unload", 404),
        ("POST", "/models/..%2f..%2fetc/1/load", 404),
        ("GET", "/models/tiny/2/load", 405),
        ("GET", "/nothing", 404),
    ],
)
def test_what_is_not_there_is_said(
    admin: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = admin.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_pages_are_turned_away(admin: httpx.Client) -> None:
    before = states(admin.get("/models"))
    for path in ("/models/scan", "/models/tiny/2/load", "/models/tiny/2/unload"):
        answer = admin.post(path, headers={"origin": "http://evil.example"})
        assert answer.status_code == 403
    assert states(admin.get("/models")) == before


def test_the_other_door_has_no_admin_and_by_default_there_is_none(
    running: RunningServer, server: RunningServer
) -> None:
    for base in (running.rest, server.rest):
        assert httpx.post(f"{base}/models/scan", trust_env=False).status_code in {404, 405}
        refused = httpx.post(f"{base}/models/tiny/1/unload", trust_env=False)
        assert refused.status_code == 404
    assert server.admin == ""


def test_a_taken_admin_port_is_no_start(running: RunningServer, root: Path) -> None:
    port = running.admin.rpartition(":")[2]
    ports = ["--http-port", "0", "--grpc-port", "0"]
    ended = run("--models", str(root), *ports, UNMIX_ADMIN_PORT=port)
    assert ended.returncode == 1
    assert f"admin port {port}" in ended.stderr


def test_with_credentials_the_admin_role_is_needed(tmp_path: Path) -> None:
    write_artifact(tmp_path / "models", Policy(), version=1)
    act, observe, admin = write_keys(tmp_path / "keys", "act", "observe", "admin")
    settings = {"admin_port": 0, "keys": tmp_path / "keys"}
    with RunningServer(tmp_path / "models", settings) as running:

        def status(method: str, path: str, key: str = "") -> int:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            url = f"{running.admin}{path}"
            return httpx.request(method, url, headers=headers, trust_env=False).status_code

        for method, path in (("GET", "/models"), ("POST", "/models/scan"), ("GET", "/livez")):
            assert status(method, path) == 401
            assert status(method, path, act) == status(method, path, observe) == 403
        assert status("GET", "/models", admin) == status("POST", "/models/scan", admin) == 200


def test_a_watched_folder_is_looked_at(tmp_path: Path) -> None:
    write_artifact(tmp_path, Policy(seed=1), version=1)
    with RunningServer(tmp_path, {"watch_models_s": 0.1}) as running:
        aside = tmp_path / "aside"
        write_artifact(aside, Policy(seed=2), version=2).rename(tmp_path / "tiny" / "2")
        end = time.monotonic() + 20
        while True:
            newest = httpx.get(f"{running.rest}/models/tiny", trust_env=False).json()
            if newest["version"] == 2:
                break
            assert time.monotonic() < end
            time.sleep(0.05)
