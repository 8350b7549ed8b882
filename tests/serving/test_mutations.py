"""Bodies and messages that went wrong on the way: always the caller's error, never the server's."""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
from typing import Any

import grpc
import numpy as np
import pytest

from serving.pb.unmix.v1 import agent_service_pb2 as pb
from tests.serving.running import RunningServer

N = 1000
VALID = {
    "obs": [0.5, -0.25, 0.1, 1.0, 0.0, -1.0, 0.75],
    "avail_actions": [False, True, True, False, True],
    "last_action": 3,
    "hidden": [0.1, -0.2, 0.3, -0.4, 0.5, -0.6],
    "model": "tiny",
    "version": 1,
    "want": ["q_values"],
}
TEAM = {
    "rows": [
        {name: VALID[name] for name in ("obs", "avail_actions", "last_action", "hidden")}
        | {"agent_id": agent}
        for agent in (2, 0)
    ],
    "model": "tiny",
    "version": 1,
    "want": ["q_values"],
}
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, -1e308, 10**40, "", "\ud800", "\0", "NaN", [], {}, [[]],
    [None], {"obs": 1}, [0.0] * 7, [1] * 5, ["next_hidden"] * 9, "x" * 300,
]  # fmt: skip
TOKENS = [
    b"NaN", b"Infinity", b"1e999", b"\xff", b"\0", b"[", b"]", b"{", b"}", b'"', b",", b":",
    b"\\u", b"\\ud800", b"0x1", b"1.", b"--", b"null", b"9" * 400, b"[" * 500, b"\xef\xbb\xbf",
]  # fmt: skip


def mutate_bytes(data: bytes, random: np.random.Generator, tokens: list[bytes]) -> bytes:
    """One to three wounds: flipped bits, cuts, repeats, or something stuck in."""
    wounded = bytearray(data)
    for _ in range(random.integers(1, 4)):
        place = int(random.integers(len(wounded) + 1))
        end = place + int(random.integers(1, 40))
        kind = random.integers(5)
        if kind == 0 and wounded:
            wounded[place % len(wounded)] ^= 1 << random.integers(8)
        elif kind == 1:
            del wounded[place:end]
        elif kind == 2:
            wounded[place:place] = wounded[place:end]
        elif kind == 3:
            del wounded[place:]
        else:
            wounded[place:place] = tokens[random.integers(len(tokens))]
    return bytes(wounded)


def mutate_request(valid: dict[str, Any], random: np.random.Generator) -> bytes:
    """Half of them wounded as bytes, half as values."""
    if random.random() < 0.5:
        return mutate_bytes(json.dumps(valid).encode(), random, TOKENS)
    body: dict[str, Any] = json.loads(json.dumps(valid))
    for _ in range(random.integers(1, 3)):
        name = list(valid)[random.integers(len(valid))]
        strange = STRANGE[random.integers(len(STRANGE))]
        value = body.get(name)
        kind = random.integers(4)
        if kind == 0:
            body.pop(name, None)
        elif kind == 1 and isinstance(value, list) and value:
            value[random.integers(len(value))] = strange
        elif kind == 2 and isinstance(strange, str):
            body[strange] = value
        else:
            body[name] = strange
    return json.dumps(body).encode()


@pytest.mark.parametrize("path", ["/agents/1/act", "/act", "/sessions"])
def test_mutated_bodies_are_never_the_servers_error(server: RunningServer, path: str) -> None:
    address = server.rest.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(address, timeout=20)) as connection:
        send_mutated(server, connection, path)


def send_mutated(server: RunningServer, connection: http.client.HTTPConnection, path: str) -> None:
    random = np.random.default_rng(len(path))
    statuses: collections.Counter[int] = collections.Counter()
    n_log_lines = len(server.log)
    for _ in range(N):
        body = mutate_request(TEAM if path == "/act" else VALID, random)
        connection.request("POST", path, body)
        response = connection.getresponse()
        answer = response.read()
        statuses[response.status] += 1
        assert response.status in {200, 201, 400, 404, 422}, (response.status, body)
        json.loads(answer)
    if path != "/sessions":  # the mutations do reach all of these
        assert min(statuses[200], statuses[400], statuses[404], statuses[422]) >= 5, statuses
    assert len(server.log) == n_log_lines
    connection.request("POST", "/agents/1/act", json.dumps(VALID))
    assert connection.getresponse().status == 200


def test_mutated_team_messages_are_never_the_servers_error(channel: grpc.Channel) -> None:
    random = np.random.default_rng(4)
    obs = np.linspace(-1, 1, 14, dtype="<f4").tobytes()
    hidden = np.linspace(-1, 1, 12, dtype="<f4").tobytes()
    mask = bytes([0, 1, 1, 0, 1] * 2)
    begin = pb.TeamBegin(
        model="tiny", version=1, units=[3, 9], agent_ids=[1, 2], hidden=hidden, last_actions=[2, -1]
    )
    valid = pb.TeamStreamRequest(
        begin=begin, units=[9, 3], obs=obs, avail_actions=mask, last_actions=[1, 4],
        want_next_hidden=True, sequence=7,
    )  # fmt: skip
    junk = [b"\xff" * 11, b"\0", b"\x0a\xff\xff\xff\xff\x0f", b"\x80", bytes(300)]
    call: Any = channel.stream_stream("/unmix.v1.AgentService/TeamStream")
    outcomes: collections.Counter[str] = collections.Counter()
    whole = valid.SerializeToString()
    for _ in range(N // 2):
        messages = iter([whole, mutate_bytes(whole, random, junk), whole])
        try:
            answers = [pb.TeamStreamResponse.FromString(it) for it in call(messages, timeout=20)]
        except grpc.RpcError as error:
            outcomes[error.code().name] += 1
            continue
        outcomes[answers[1].fault.reason or "OK"] += 1
        # Whatever the second was, the third is done as the first.
        assert answers[2] == answers[0]
    assert set(outcomes) <= {
        "OK", "INVALID_ARGUMENT", "INVALID_REQUEST", "MODEL_NOT_FOUND", "AGENT_NOT_FOUND",
    }  # fmt: skip
    assert min(outcomes[name] for name in ("OK", "INVALID_ARGUMENT", "INVALID_REQUEST")) >= 5


def test_mutated_messages_are_never_the_servers_error(channel: grpc.Channel) -> None:
    random = np.random.default_rng(2)
    obs = np.linspace(-1, 1, 7, dtype="<f4").tobytes()
    hidden = np.linspace(-1, 1, 6, dtype="<f4").tobytes()
    valid = pb.ActRequest(
        model="tiny", version=1, agent_id=1, obs=obs, avail_actions=bytes([0, 1, 1, 0, 1]),
        last_action=3, hidden=hidden, want_q_values=True, sequence=7,
    )  # fmt: skip
    begin = pb.Episode(model="tiny", version=1, agent_id=1, hidden=hidden, last_action=2)
    streamed = pb.ActStreamRequest(
        begin=begin, obs=obs, avail_actions=bytes([0, 1, 1, 0, 1]), sequence=7
    )
    junk = [b"\xff" * 11, b"\0", b"\x0a\xff\xff\xff\xff\x0f", b"\x80", bytes(300)]
    act: Any = channel.unary_unary("/unmix.v1.AgentService/Act")
    stream: Any = channel.stream_stream("/unmix.v1.AgentService/ActStream")
    code = grpc.StatusCode
    codes: collections.Counter[grpc.StatusCode] = collections.Counter()
    for number in range(N):
        message = valid if number % 2 else streamed
        data = mutate_bytes(message.SerializeToString(), random, junk)
        try:
            if number % 2:
                act(data, timeout=20)
            else:
                list(stream(iter([streamed.SerializeToString(), data]), timeout=20))
            codes[code.OK] += 1
        except grpc.RpcError as error:
            codes[error.code()] += 1
    # The mutations do reach all three, and nothing else.
    assert set(codes) == {code.OK, code.INVALID_ARGUMENT, code.NOT_FOUND}
    assert min(codes.values()) >= 5, codes
    assert act(valid.SerializeToString(), timeout=20)
