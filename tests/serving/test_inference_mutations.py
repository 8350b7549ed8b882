"""Open Inference Protocol requests that went wrong on the way: the caller's error, every one."""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
from typing import Any

import grpc
import numpy as np

from serving.pb.inference import inference_service_pb2 as pb
from tests.serving.running import RunningServer
from tests.serving.test_inference import INFER, inputs, of_sequence, request
from tests.serving.test_mutations import STRANGE, TOKENS, mutate_bytes

N = 500
HIDDEN = np.linspace(-1, 1, 6, dtype="<f4")
PARAMETERS = {"sequence_id": 9, "sequence_start": True, "timeout": 10**6}


def mutate_values(random: np.random.Generator) -> bytes:
    """Something strange in one place of an input or parameter."""
    given = inputs(hidden=HIDDEN.tolist())
    parameters: dict[str, Any] = dict(PARAMETERS)
    strange = STRANGE[random.integers(len(STRANGE))]
    target: dict[str, Any] = parameters if random.random() < 0.3 else given[random.integers(5)]
    name = list(target)[random.integers(len(target))]
    if isinstance(target[name], list) and random.random() < 0.5:
        target[name][random.integers(len(target[name]))] = strange
    else:
        target[name] = strange
    return json.dumps({"inputs": given, "parameters": parameters}).encode()


def test_mutated_rest_requests_are_never_the_server_s_error(server: RunningServer) -> None:
    random = np.random.default_rng(5)
    valid = {"inputs": inputs(hidden=HIDDEN.tolist()), "parameters": PARAMETERS}
    # The whole of it: JSON with an input's bytes behind it.
    binary: dict[str, Any] = {"inputs": inputs(), "parameters": {"binary_data_output": True}}
    data = np.linspace(-1, 1, 7, dtype="<f4").tobytes()
    del binary["inputs"][0]["data"]
    binary["inputs"][0]["parameters"] = {"binary_data_size": 28}
    head = json.dumps(binary).encode()
    statuses: collections.Counter[int] = collections.Counter()
    n_log_lines = len(server.log)
    address = server.rest.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(address, timeout=20)) as connection:
        for number in range(N):
            headers = {}
            if number % 3 == 0:
                body = mutate_bytes(json.dumps(valid).encode(), random, TOKENS)
            elif number % 3 == 1:
                body = mutate_values(random)
            else:
                body = head + mutate_bytes(data, random, TOKENS)
                if random.random() < 0.5:  # as long as it should be
                    body = body[: len(head + data)].ljust(len(head + data), b"\0")
                headers = {"inference-header-content-length": str(len(head))}
            connection.request("POST", INFER, body, headers)
            response = connection.getresponse()
            answer = response.read()
            statuses[response.status] += 1
            assert response.status in {200, 400, 404}, (response.status, body)
            if response.status != 200:
                assert set(json.loads(answer)) == {"error"}
        connection.request("POST", INFER, json.dumps(valid))
        assert connection.getresponse().status == 200
    assert min(statuses[200], statuses[400]) >= 20, statuses
    assert len(server.log) == n_log_lines


def test_mutated_grpc_messages_are_never_the_server_s_error(channel: grpc.Channel) -> None:
    random = np.random.default_rng(6)
    whole = of_sequence(request(hidden=HIDDEN.tobytes()), 9, start=True).SerializeToString()
    junk = [b"\xff" * 11, b"\0", b"\x0a\xff\xff\xff\xff\x0f", b"\x80", bytes(300)]
    infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    stream: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    outcomes: collections.Counter[str] = collections.Counter()
    for number in range(N):
        data = mutate_bytes(whole, random, junk)
        try:
            if number % 2:
                infer(data, timeout=20)
                outcomes["OK"] += 1
            else:
                # Whatever the second is, unless it is no message the third is done as the first.
                first, second, third = stream(iter([whole, data, whole]), timeout=20)
                answer = pb.ModelStreamInferResponse.FromString(second)
                outcomes["FAULT" if answer.error_message else "OK"] += 1
                assert third == first
        except grpc.RpcError as error:
            outcomes[error.code().name] += 1
    assert set(outcomes) <= {"OK", "FAULT", "INVALID_ARGUMENT", "NOT_FOUND"}
    assert min(outcomes[name] for name in ("OK", "FAULT", "INVALID_ARGUMENT")) >= 5, outcomes
