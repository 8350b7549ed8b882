"""Sealed memory on the wire, with two replicas that share a key file."""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from serving.client import Units
from serving.models.agent_model import AgentModel, Row, StepResult
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc
from serving.steps.sealing import NOT_OURS
from tests.serving.running import RunningServer
from tests.serving.test_server import run

OBS = np.linspace(-1, 1, 7, dtype="<f4")
MASK = bytes([0, 1, 1, 0, 1])
KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
N_STEPS = 6


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"one {KEYS[0]}\n")
    return path


@pytest.fixture(scope="module")
def replicas(models: Path, key_file: Path) -> Iterator[list[RunningServer]]:
    settings = {"memory_keys": key_file}
    with RunningServer(models, settings) as one, RunningServer(models, settings) as two:
        yield [one, two]


@pytest.fixture(scope="module")
def stubs(replicas: list[RunningServer]) -> Iterator[list[Any]]:
    channels = [grpc.insecure_channel(replica.grpc) for replica in replicas]
    yield [pb_grpc.AgentServiceStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
    for channel in channels:
        channel.close()


@pytest.fixture(scope="module")
def expected(model: AgentModel) -> list[int]:
    """Agent 1's actions, with no service at all."""
    hidden, last, actions = model.first_hidden, -1, []
    for _ in range(N_STEPS):
        (result,) = model.step([Row(OBS.tobytes(), MASK, last, 1, hidden)])
        assert isinstance(result, StepResult)
        hidden, last = result.next_hidden, result.action
        actions.append(last)
    return actions


def act(stub: Any, hidden: bytes = b"", agent: int = 1, **more: Any) -> pb.ActResponse:
    request = pb.ActRequest(
        agent_id=agent, obs=OBS.tobytes(), avail_actions=MASK, hidden=hidden, **more
    )
    answer: pb.ActResponse = stub.Act(request)
    return answer


def post(replica: RunningServer, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{replica.rest}{path}", json=body, trust_env=False)


def rest_act(replica: RunningServer, **more: Any) -> httpx.Response:
    return post(replica, "/agents/1/act", obs=OBS.tolist(), avail_actions=list(MASK), **more)


def test_replicas_take_turns_in_one_episode_through_both_doors(
    replicas: list[RunningServer], stubs: list[Any], expected: list[int]
) -> None:
    token, actions = b"", []
    for step in range(N_STEPS):
        if step % 3 == 2:
            answer = rest_act(
                replicas[step % 2], hidden=base64.urlsafe_b64encode(token).decode()
            ).json()
            token = base64.urlsafe_b64decode(answer["next_hidden"])
            actions.append(answer["action"])
        else:
            reply = act(stubs[step % 2], token)
            token = reply.next_hidden
            actions.append(reply.action)
        assert token[:5] == b"\x01\x03one"
    assert actions == expected


def test_a_stream_and_a_session_hand_their_memory_over(
    replicas: list[RunningServer], stubs: list[Any], expected: list[int]
) -> None:
    def step(hidden: bytes) -> pb.ActStreamResponse:
        request = pb.ActStreamRequest(
            begin=pb.Episode(agent_id=1, hidden=hidden),
            obs=OBS.tobytes(),
            avail_actions=MASK,
            want_next_hidden=True,
        )
        (answer,) = stubs[0].ActStream(iter([request]))
        return answer  # type: ignore[no-any-return]

    first = step(b"")
    second = step(first.next_hidden)
    token = base64.urlsafe_b64encode(second.next_hidden).decode()
    opened = post(replicas[1], "/sessions", agent_id=1, hidden=token)
    assert opened.status_code == 201
    session = opened.json()["session"]
    third = rest_act(replicas[1], session=session, want=["next_hidden"]).json()
    fourth = act(stubs[0], base64.urlsafe_b64decode(third["next_hidden"]))
    assert [first.action, second.action, third["action"], fourth.action] == expected[:4]


def test_the_action_really_taken_can_be_told(stubs: list[Any], model: AgentModel) -> None:
    first = act(stubs[0])
    (result,) = model.step([Row(OBS.tobytes(), MASK, -1, 1, model.first_hidden)])
    assert isinstance(result, StepResult)
    taken = 4 if first.action != 4 else 1
    (other,) = model.step([Row(OBS.tobytes(), MASK, taken, 1, result.next_hidden)])
    assert isinstance(other, StepResult)
    told = act(stubs[1], first.next_hidden, last_action=taken, want_q_values=True)
    assert told.q_values == other.q_values
    assert act(stubs[1], first.next_hidden, want_q_values=True).q_values != other.q_values


def test_what_is_not_ours_is_refused_in_one_and_the_same_way(
    replicas: list[RunningServer], stubs: list[Any]
) -> None:
    token = act(stubs[0]).next_hidden
    forged = token[:-1] + bytes([token[-1] ^ 1])
    raw = np.zeros(6, "<f4").tobytes()
    for hidden, agent in [(forged, 1), (token, 2), (raw, 1), (token[:40], 1), (b"\1", 1)]:
        with pytest.raises(grpc.RpcError) as caught:
            act(stubs[0], hidden, agent, last_action=1)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == NOT_OURS
    for text in [base64.urlsafe_b64encode(forged).decode(), "?", "AA", "ü"]:
        for answer in (
            rest_act(replicas[0], hidden=text),
            post(replicas[0], "/sessions", agent_id=1, hidden=text),
        ):
            assert answer.status_code == 422
            assert answer.json()["errors"] == [{"field": "hidden", "message": NOT_OURS}]
    listed = rest_act(replicas[0], hidden=[0.0] * 6, last_action=1)
    assert listed.json()["errors"][0]["field"] == "hidden"
    assert "text" in listed.json()["detail"]


def test_without_keys_a_memory_is_numbers(server: RunningServer) -> None:
    answer = rest_act(server, hidden="AAAA", last_action=1)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"field": "hidden", "message": "hidden must be a list of numbers"}
    ]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_the_client_carries_seals_as_it_carries_numbers(
    replicas: list[RunningServer], expected: list[int], scheme: str
) -> None:
    url = f"grpc://{replicas[0].grpc}/tiny" if scheme == "grpc" else f"{replicas[0].rest}/tiny"
    with Units(url, [1], "carried") as units:
        units.begin_episode()
        mask = np.frombuffer(MASK, np.bool_)[None]
        assert [units.act(OBS[None], mask)[0] for _ in range(N_STEPS)] == expected


def test_keys_rotate_under_running_servers(
    replicas: list[RunningServer], stubs: list[Any], key_file: Path, expected: list[int]
) -> None:
    def write(text: str) -> None:
        beside = key_file.with_suffix(".new")
        beside.write_text(text)
        os.replace(beside, key_file)

    def wait(n_changes: int, replica: RunningServer) -> None:
        end = time.monotonic() + 10
        while sum("memory keys changed" in line for line in replica.log) < n_changes:
            assert time.monotonic() < end, replica.log
            time.sleep(0.01)

    old = act(stubs[0])
    for number, text in enumerate(
        [f"one {KEYS[0]}\ntwo {KEYS[1]}\n", f"two {KEYS[1]}\none {KEYS[0]}\n"], start=1
    ):
        write(text)
        replicas[0].process.send_signal(signal.SIGHUP)  # the other one finds out by itself
        for replica in replicas:
            wait(number, replica)
    new = act(stubs[0], old.next_hidden)
    assert (old.next_hidden[2:5], new.next_hidden[2:5]) == (b"one", b"two")
    assert [old.action, new.action, act(stubs[1], new.next_hidden).action] == expected[:3]
    write(f"two {KEYS[1]}\n")
    for replica in replicas:
        wait(3, replica)
        assert not any(key in line for line in replica.log for key in KEYS)
    assert act(stubs[1], new.next_hidden).action == expected[2]
    with pytest.raises(grpc.RpcError, match="no memory that was sealed here"):
        act(stubs[1], old.next_hidden)


def test_a_broken_key_file_is_no_start(models: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one c2hvcnQ=\n")
    ended = run("--models", str(models), UNMIX_MEMORY_KEYS=str(tmp_path / "keys"))
    assert ended.returncode == 1
    assert "line 1: the key has 5 bytes; it takes 32" in ended.stderr
    assert "c2hvcnQ" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_teams_carry_their_memories_from_replica_to_replica(
    replicas: list[RunningServer], stubs: list[Any], expected: list[int]
) -> None:
    """Two units: agents 1 and 2. In turns through `POST /act` and `TeamStream`, here and there."""
    rows = [
        {"agent_id": agent, "obs": OBS.tolist(), "avail_actions": list(MASK)} for agent in (1, 2)
    ]
    actions, tokens = [], [b"", b""]
    for step in range(0, N_STEPS, 2):
        for row, token in zip(rows, tokens, strict=True):
            if token:
                row["hidden"] = base64.urlsafe_b64encode(token).decode()
        answer = post(replicas[0], "/act", rows=rows)
        assert answer.status_code == 200, answer.text
        shown = answer.json()["rows"]
        actions.append(shown[0]["action"])
        tokens = [base64.urlsafe_b64decode(row["next_hidden"]) for row in shown]
        assert len({len(token) for token in tokens}) == 1
        begin = pb.TeamBegin(units=[7, 8], agent_ids=[1, 2], hidden=b"".join(tokens))
        request = pb.TeamStreamRequest(
            begin=begin,
            units=[7, 8],
            obs=OBS.tobytes() * 2,
            avail_actions=MASK * 2,
            want_next_hidden=True,
        )
        (reply,) = stubs[1].TeamStream(iter([request]))
        assert not reply.HasField("fault"), reply.fault
        actions.append(reply.actions[0])
        half = len(reply.next_hidden) // 2
        tokens = [reply.next_hidden[:half], reply.next_hidden[half:]]
        assert step_of(tokens[0]) == step_of(tokens[1]) == step + 2
    assert actions == expected
    swapped = [{**rows[0], "hidden": base64.urlsafe_b64encode(tokens[1]).decode()}, rows[1]]
    refused = post(replicas[0], "/act", rows=swapped)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "rows[0].hidden"
    plain = [{**rows[0], "hidden": [0.0] * 6, "last_action": 1}]
    assert post(replicas[0], "/act", rows=plain).status_code == 422
    (reply,) = stubs[1].TeamStream(
        iter([pb.TeamStreamRequest(begin=pb.TeamBegin(units=[1], agent_ids=[1], hidden=bytes(24)))])
    )
    assert reply.HasField("fault")


def step_of(token: bytes) -> int:
    """The step that a token says in clear."""
    at = 2 + token[1] + 16 + 8
    return int.from_bytes(token[at : at + 4], "big")
