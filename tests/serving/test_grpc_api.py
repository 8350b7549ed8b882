"""The gRPC door, over the wire."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from serving.errors import ServingError
from serving.models.agent_model import AgentModel, Row, StepResult
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc
from serving.rpc.api import STATUS
from tests.serving.running import RunningServer

OBS = np.linspace(-1, 1, 7, dtype="<f4").tobytes()
MASK = bytes([0, 1, 1, 0, 1])
HIDDEN = np.linspace(-1, 1, 6, dtype="<f4").tobytes()
NAN = b"\0\0\xc0\x7f"
SECRET = "XYZZY"

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def stub(channel: grpc.Channel) -> Any:
    return pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]


@pytest.fixture
def agents(channel: grpc.Channel) -> Any:
    return stub(channel)


@pytest.fixture
def strict(strict_server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(strict_server.grpc) as channel:
        yield stub(channel)


def serial(model: AgentModel, agent: int, last: int, hidden: bytes) -> StepResult:
    (result,) = model.step([Row(OBS, MASK, last, agent, hidden)])
    assert isinstance(result, StepResult)
    return result


def request(**fields: Any) -> pb.ActRequest:
    return pb.ActRequest(**({"obs": OBS, "avail_actions": MASK} | fields))


def step(**fields: Any) -> pb.ActStreamRequest:
    return pb.ActStreamRequest(**({"obs": OBS, "avail_actions": MASK} | fields))


def refused(call: Callable[[], object], code: grpc.StatusCode) -> tuple[str, dict[str, Any]]:
    """(text, details by type) of the status that the call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    assert error.code() == code, error
    assert SECRET not in repr(error)
    details: dict[str, Any] = {}
    trailers = dict(error.trailing_metadata() or ())
    if "grpc-status-details-bin" in trailers:
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        assert (status.code, status.message) == (code.value[0], error.details())
        kinds: list[type[Message]] = [
            error_details_pb2.BadRequest,
            error_details_pb2.ErrorInfo,
            error_details_pb2.RetryInfo,
        ]
        for packed in status.details:
            for kind in kinds:
                message = kind()
                if packed.Unpack(message):
                    details[kind.DESCRIPTOR.name] = message
    return error.details(), details


class Stream:
    """A unit's stream, one answer for each request."""

    def __init__(self, agents: Any) -> None:
        self._requests: queue.SimpleQueue[pb.ActStreamRequest | None] = queue.SimpleQueue()
        self.call = agents.ActStream(iter(self._requests.get, None), timeout=20)

    def __call__(self, message: pb.ActStreamRequest) -> pb.ActStreamResponse:
        self._requests.put(message)
        answer: pb.ActStreamResponse = next(self.call)
        return answer

    def end(self) -> grpc.StatusCode:
        self._requests.put(None)
        assert list(self.call) == []
        code: grpc.StatusCode = self.call.code()
        return code


# Act


def test_a_step_answers_what_the_model_does(agents: Any, model: AgentModel) -> None:
    expected = serial(model, 2, -1, bytes(24))
    answer = agents.Act(request(agent_id=2, sequence=2**64 - 1))
    assert answer == pb.ActResponse(
        action=expected.action,
        next_hidden=expected.next_hidden,
        model="tiny",
        version=1,
        sequence=2**64 - 1,
    )
    expected = serial(model, 1, 3, HIDDEN)
    answer = agents.Act(
        request(agent_id=1, model="tiny", version=1, last_action=3, hidden=HIDDEN,
                want_q_values=True)
    )  # fmt: skip
    assert (answer.next_hidden, answer.q_values) == (expected.next_hidden, expected.q_values)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"obs": OBS[:-1]}, "obs", "obs has 6.75 values; tiny version 1 takes 7"),
        ({"obs": OBS[:-4] + NAN}, "obs", "obs[6] is not a number in [-1e+06, 1e+06]"),
        ({"avail_actions": MASK + b"\0"}, "avail_actions", "avail_actions has 6 values; "),
        ({"avail_actions": bytes(5)}, "avail_actions", "avail_actions leaves no action"),
        ({"avail_actions": b"\xff" * 5}, "avail_actions", "avail_actions has values other"),
        ({"last_action": 5}, "last_action", "last_action must be -1"),
        ({"hidden": HIDDEN}, "last_action", "last_action is needed with hidden"),
        ({"hidden": HIDDEN * 2, "last_action": 0}, "hidden", "hidden has 12 values; "),
        ({"hidden": HIDDEN[:-4] + NAN, "last_action": 0}, "hidden", "hidden[5] is not"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(
    agents: Any, fields: dict[str, Any], field: str, words: str
) -> None:
    text, details = refused(lambda: agents.Act(request(**fields)), INVALID)
    assert text.startswith(words)
    (violation,) = details["BadRequest"].field_violations
    assert (violation.field, violation.description) == (field, text)
    info = details["ErrorInfo"]
    assert (info.reason, info.domain) == ("INVALID_REQUEST", "unmix")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"agent_id": 3}, "AGENT_NOT_FOUND"),
        ({"agent_id": 2**32 - 1}, "AGENT_NOT_FOUND"),
        ({"model": SECRET}, "MODEL_NOT_FOUND"),
        ({"version": 7}, "MODEL_NOT_FOUND"),
    ],
)
def test_what_is_not_there_is_not_found(agents: Any, fields: dict[str, Any], reason: str) -> None:
    _, details = refused(lambda: agents.Act(request(**fields)), NOT_FOUND)
    assert details["ErrorInfo"].reason == reason


@pytest.mark.parametrize("method", ["Act", "ListModels", "GetModel"])
def test_bytes_that_are_no_message_are_the_callers_error(
    channel: grpc.Channel, method: str
) -> None:
    call: Any = channel.unary_unary(f"/unmix.v1.AgentService/{method}")
    for data in (b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe"):
        if method == "ListModels" and data[:1] != b"\xff":
            continue  # unknown fields, which protobuf lets pass
        text, details = refused(lambda data=data: call(data), INVALID)  # type: ignore[misc]
        assert text.startswith("the message is not a unmix.v1.")
        assert details["ErrorInfo"].reason == "MALFORMED_REQUEST"


def test_oversized_messages_are_refused(strict: Any) -> None:
    padded = request(model="tiny", obs=bytes(3000))
    refused(lambda: strict.Act(padded), grpc.StatusCode.RESOURCE_EXHAUSTED)
    stream = Stream(strict)
    big = step(begin=pb.Episode(model="tiny"), obs=bytes(3000))
    refused(lambda: stream(big), grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_refused_model_is_unavailable(strict: Any) -> None:
    _, details = refused(
        lambda: strict.Act(request(model="tiny", version=2)), grpc.StatusCode.UNAVAILABLE
    )
    assert details["ErrorInfo"].reason == "MODEL_NOT_READY"
    assert strict.Act(request(model="tiny")).version == 1
    _, details = refused(lambda: strict.Act(request()), INVALID)
    assert details["BadRequest"].field_violations[0].field == "model"


def test_a_late_step_is_deadline_exceeded(late_server: RunningServer) -> None:
    with grpc.insecure_channel(late_server.grpc) as channel:
        _, details = refused(
            lambda: stub(channel).Act(request()), grpc.StatusCode.DEADLINE_EXCEEDED
        )
    assert details["ErrorInfo"].reason == "DEADLINE_EXCEEDED"


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary("/unmix.v1.AgentService/Nothing")
    refused(lambda: call(b""), grpc.StatusCode.UNIMPLEMENTED)


# ActStream


def test_a_stream_holds_memory_and_last_action(agents: Any, model: AgentModel) -> None:
    stream = Stream(agents)
    sequence = 0
    for _ in range(2):
        hidden, last = bytes(24), -1
        for number in range(6):
            given = {"last_action": 0} if number == 4 else {}
            begin = {"begin": pb.Episode(agent_id=1)} if number == 0 else {}
            sequence += 1
            answer = stream(
                step(sequence=sequence, want_next_hidden=True, want_q_values=True, **given, **begin)
            )
            expected = serial(model, 1, given.get("last_action", last), hidden)
            assert answer.sequence == sequence
            assert (answer.action, answer.next_hidden, answer.q_values) == (
                expected.action,
                expected.next_hidden,
                expected.q_values,
            )
            assert (answer.model, answer.version) == (("tiny", 1) if begin else ("", 0))
            hidden, last = expected.next_hidden, expected.action
    assert stream(step()).next_hidden == b""
    assert stream.end() == grpc.StatusCode.OK


def test_a_stream_resumes_where_another_broke(agents: Any, model: AgentModel) -> None:
    first = Stream(agents)
    first(step(begin=pb.Episode()))
    last = first(step(want_next_hidden=True))
    twin = first(step(want_q_values=True))
    first.call.cancel()
    second = Stream(agents)
    begun = second(
        pb.ActStreamRequest(
            begin=pb.Episode(version=1, hidden=last.next_hidden, last_action=last.action),
            sequence=9,
        )
    )
    assert begun == pb.ActStreamResponse(model="tiny", version=1, sequence=9)
    assert not begun.HasField("action")
    assert second(step(want_q_values=True)) == twin
    assert second.end() == grpc.StatusCode.OK


def test_streams_side_by_side_do_not_touch_each_other(agents: Any, model: AgentModel) -> None:
    streams = [Stream(agents) for _ in range(20)]
    memory = [(bytes(24), -1)] * 20
    for number in range(5):
        for place, stream in enumerate(streams):
            begin = {"begin": pb.Episode(agent_id=place % 3)} if number == 0 else {}
            hidden, last = memory[place]
            expected = serial(model, place % 3, last, hidden)
            answer = stream(step(want_next_hidden=True, **begin))
            assert (answer.action, answer.next_hidden) == (expected.action, expected.next_hidden)
            memory[place] = expected.next_hidden, expected.action
    assert {stream.end() for stream in streams} == {grpc.StatusCode.OK}


@pytest.mark.parametrize(
    ("messages", "code", "reason"),
    [
        ([step()], INVALID, "INVALID_REQUEST"),
        ([step(begin=pb.Episode(agent_id=3))], NOT_FOUND, "AGENT_NOT_FOUND"),
        ([step(begin=pb.Episode(model=SECRET))], NOT_FOUND, "MODEL_NOT_FOUND"),
        ([step(begin=pb.Episode(hidden=HIDDEN))], INVALID, "INVALID_REQUEST"),
        ([step(begin=pb.Episode(), obs=OBS[:-4] + NAN)], INVALID, "INVALID_REQUEST"),
        ([step(begin=pb.Episode()), step(avail_actions=bytes(5))], INVALID, "INVALID_REQUEST"),
        ([step(begin=pb.Episode()), step(begin=pb.Episode(version=3))], NOT_FOUND, "MODEL_NOT"),
        ([step(begin=pb.Episode()), pb.ActStreamRequest()], INVALID, "INVALID_REQUEST"),
    ],
)
def test_a_stream_ends_at_its_first_error(
    agents: Any, messages: list[pb.ActStreamRequest], code: grpc.StatusCode, reason: str
) -> None:
    stream = Stream(agents)
    for message in messages[:-1]:
        stream(message)
    _, details = refused(lambda: stream(messages[-1]), code)
    assert details["ErrorInfo"].reason.startswith(reason)


def test_a_stream_of_junk_is_the_callers_error(channel: grpc.Channel) -> None:
    call: Any = channel.stream_stream("/unmix.v1.AgentService/ActStream")
    _, details = refused(lambda: next(call(iter([b"\xff\xff"]))), INVALID)
    assert details["ErrorInfo"].reason == "MALFORMED_REQUEST"


def test_too_many_streams_are_told_when_to_come_back(strict: Any) -> None:
    first = Stream(strict)
    first(step(begin=pb.Episode(model="tiny")))
    second = Stream(strict)
    _, details = refused(
        lambda: second(step(begin=pb.Episode(model="tiny"))), grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    assert details["ErrorInfo"].reason == "OVERLOADED"
    assert details["RetryInfo"].retry_delay.seconds == 1
    first.call.cancel()  # a client that goes away frees its place
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        third = Stream(strict)
        try:
            third(step(begin=pb.Episode(model="tiny")))
        except grpc.RpcError:
            continue
        assert third.end() == grpc.StatusCode.OK
        return
    pytest.fail("the place was never freed")


# Models, health, reflection


def test_models_are_listed_with_what_they_are(strict: Any) -> None:
    models = strict.ListModels(pb.ListModelsRequest()).models
    found = [(m.name, m.version, m.state, m.latest) for m in models]
    ready, bad = pb.Model.STATE_READY, pb.Model.STATE_REFUSED
    assert found == [("other", 1, ready, True), ("tiny", 1, ready, True), ("tiny", 2, bad, False)]
    assert models[2].reason == "model.onnx is not the file that the manifest describes"
    tiny = strict.GetModel(pb.GetModelRequest(name="tiny")).model
    assert tiny == models[1]
    assert (tiny.dims.n_agents, tiny.dims.n_actions, tiny.dims.obs_dim, tiny.dims.hidden_dim) == (
        (3, 5, 7, 6)
    )
    assert list(tiny.unit_types) == ["stalker"] * 3
    assert strict.GetModel(pb.GetModelRequest(name="tiny", version=2)).model == models[2]
    refused(lambda: strict.GetModel(pb.GetModelRequest(name=SECRET)), NOT_FOUND)


def test_both_doors_say_the_same_of_a_model(agents: Any, http: httpx.Client) -> None:
    rest = http.get("/models/tiny").json()
    model = agents.GetModel(pb.GetModelRequest()).model
    assert rest.pop("dims") == {
        name: getattr(model.dims, name)
        for name in ("n_agents", "n_actions", "obs_dim", "hidden_dim")
    }
    assert rest.pop("state") == "ready"
    assert rest == {name: getattr(model, name) for name in rest} | {
        "unit_types": list(model.unit_types)
    }
    assert json.dumps(rest)


def test_health_is_served_by_service_and_as_a_whole(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    for name in ("", "unmix.v1.AgentService", "inference.GRPCInferenceService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    refused(lambda: health.Check(health_pb2.HealthCheckRequest(service="x")), NOT_FOUND)


def test_reflection_describes_the_service(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        "unmix.v1.AgentService",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    described = database.FindFileContainingSymbol("unmix.v1.AgentService")
    methods = [method.name for method in described.service[0].method]
    assert methods == ["Act", "ActStream", "TeamStream", "ListModels", "GetModel"]


def test_steps_are_counted_by_outcome(agents: Any, http: httpx.Client) -> None:
    def counts() -> dict[str, float]:
        lines = http.get("/metrics").text.splitlines()
        found = (line.rpartition(" ") for line in lines if line.startswith("unmix_requests_total"))
        return {labels: float(value) for labels, _, value in found}

    def count(door: str, code: str, shown: dict[str, float]) -> float:
        return shown.get(f'unmix_requests_total{{code="{code}",door="{door}"}}', 0)

    before = counts()
    agents.Act(request())
    refused(lambda: agents.Act(request(obs=b"")), INVALID)
    stream = Stream(agents)
    stream(step(begin=pb.Episode()))
    stream(step())
    refused(lambda: stream(step(obs=b"")), INVALID)
    after = counts()
    for door, ok in (("grpc_unary", 1), ("grpc_stream", 2)):
        assert count(door, "ok", after) == count(door, "ok", before) + ok
        invalid = "invalid_request"
        assert count(door, invalid, after) == count(door, invalid, before) + 1


def test_callers_at_once_get_their_own_answers(agents: Any, model: AgentModel) -> None:
    random = np.random.default_rng(0)
    rows = [
        Row(random.uniform(-1, 1, 7).astype("<f4").tobytes(), MASK, number % 5, number % 3, HIDDEN)
        for number in range(200)
    ]
    futures = [
        agents.Act.future(
            pb.ActRequest(
                agent_id=row.agent_id,
                obs=row.obs,
                avail_actions=row.avail_actions,
                last_action=row.last_action,
                hidden=row.hidden,
                want_q_values=True,
                sequence=number,
            )
        )
        for number, row in enumerate(rows)
    ]
    for number, (future, row) in enumerate(zip(futures, rows, strict=True)):
        answer = future.result(20)
        (expected,) = model.step([row])
        assert (answer.action, answer.q_values, answer.next_hidden) == expected
        assert answer.sequence == number


def test_the_health_watch_sees_the_state(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service="unmix.v1.AgentService"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    ended = threading.Event()
    watch.add_callback(ended.set)
    watch.cancel()
    assert ended.wait(5)


def test_every_error_has_a_code_of_its_own_kind() -> None:
    assert all(issubclass(kind, ServingError) for kind in STATUS)
    assert grpc.StatusCode.OK not in STATUS.values()
    assert grpc.StatusCode.UNKNOWN not in STATUS.values()
