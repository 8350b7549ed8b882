"""Three replicas behind HAProxy, as docs/scaling.md says: killed, drained, and nothing is lost.

The long form is `python -m benchmarks.replicas`.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.replicas import (
    CONFIG,
    Command,
    Played,
    Replica,
    Sights,
    haproxy,
    judge,
    n_wrong,
    play_all,
    replicas,
)
from serving.models.agent_model import AgentModel, Row, StepResult

if shutil.which("haproxy") is None:
    pytest.skip(
        "haproxy is not installed (Debian: apt-get install haproxy)", allow_module_level=True
    )

STEP: dict[str, Any] = {"obs": [0.5] * 7, "avail_actions": [True] * 5}
Proxied = tuple[list[Replica], tuple[int, int]]


@pytest.fixture(scope="module")
def proxied(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """The replicas, and the proxy's REST and gRPC port."""
    folder = tmp_path_factory.mktemp("replicas")
    with replicas(models, folder) as found, haproxy(found, folder) as ports:
        yield found, ports
    for log in folder.glob("*.log"):
        assert "Traceback" not in log.read_text()


@pytest.fixture
def rest(proxied: Proxied) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{proxied[1][0]}", trust_env=False) as client:
        yield client


def test_haproxy_has_no_objection_to_the_file() -> None:
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(CONFIG)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, "[WARNING]" in checked.stderr) == (0, False), checked.stderr


def test_one_wrong_action_would_be_found(model: AgentModel) -> None:
    played = Played(1, 1)
    assert n_wrong(played, model) == 0
    sights, hidden, last = Sights(model, 1), model.first_hidden, -1
    for _ in range(5):
        obs, mask = sights.next()
        (result,) = model.step([Row(obs.tobytes(), mask.tobytes(), last, 1, hidden)])
        assert isinstance(result, StepResult)
        hidden, last = result.next_hidden, result.action
        played.actions.append(last)
    assert n_wrong(played, model) == 0
    played.actions[3] += 1
    assert n_wrong(played, model) == 1


def test_sessions_stay_where_their_caller_is_sent(rest: httpx.Client) -> None:
    refused = rest.post("/sessions", json={"agent_id": 0})
    assert (refused.status_code, refused.headers["content-type"]) == (
        400,
        "application/problem+json",
    )
    assert refused.json()["type"] == "urn:unmix:problem:client-id-needed"
    for number in range(9):
        headers = {"x-client-id": f"caller-{number}"}
        opened = rest.post("/sessions", json={"agent_id": 0}, headers=headers)
        assert opened.status_code == 201
        session = opened.json()["session"]
        for _ in range(4):
            body = STEP | {"session": session}
            assert rest.post("/agents/0/act", json=body, headers=headers).status_code == 200
        assert rest.delete(f"/sessions/{session}", headers=headers).status_code == 204


def test_a_drained_replica_costs_plain_callers_nothing(
    proxied: Proxied, rest: httpx.Client
) -> None:
    """Not even one that never tries again."""
    replica = proxied[0][2]
    codes: list[int] = []
    ending = threading.Thread(target=lambda: codes.append(replica.stop(signal.SIGTERM)))
    ending.start()
    hidden = None
    while ending.is_alive():
        carried: dict[str, Any] = {} if hidden is None else {"hidden": hidden}
        answer = rest.post("/agents/0/act", json=STEP | carried)
        assert answer.status_code == 200, (answer.headers, answer.text)
        hidden = answer.json()["next_hidden"]
    ending.join()
    assert codes == [0]
    assert rest.post("/agents/0/act", json=STEP | {"hidden": hidden}).status_code == 200
    replica.start()
    replica.wait()


def test_killed_replicas_cost_no_session_and_no_action(
    proxied: Proxied, models: Path, model: AgentModel
) -> None:
    found, ports = proxied
    command = Command(3.6, 1.2, units=4, steps_per_s=20, model=models / "tiny" / "1")
    played, n_killed = asyncio.run(play_all(ports, found, model, command))
    assert n_killed == 2
    for result in judge(played, model):
        assert (result.sessions, result.lost_sessions, result.wrong_actions) == (4, 0, 0), result
        assert result.steps >= 4 * 70
    for replica in found:
        replica.wait()
