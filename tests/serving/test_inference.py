"""The Open Inference Protocol at both doors of a real server, without any client library."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from serving.models.agent_model import AgentModel, Row, StepResult
from serving.pb.inference import inference_service_pb2 as pb
from serving.pb.inference import inference_service_pb2_grpc as pb_grpc
from serving.rest.front import role_for
from serving.rpc.inference import host_of
from serving.settings import Role
from tests.artifacts import Policy, write_artifact
from tests.serving.running import RunningServer
from tests.serving.test_access import write_keys
from tests.serving.test_memory_keys import line

OBS = np.linspace(-1, 1, 7, dtype="<f4")
MASK = np.array([False, True, True, False, True])
SECRET = "planted-secret"
INFER = "/v2/models/tiny/infer"


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def inputs(
    last_action: int = -1, agent_id: int = 0, hidden: list[float] | None = None
) -> list[dict[str, Any]]:
    given = [
        tensor("obs", "FP32", [1, 7], OBS.tolist()),
        tensor("avail_actions", "BOOL", [1, 5], MASK.tolist()),
        tensor("last_action", "INT64", [1, 1], [last_action]),
        tensor("agent_id", "INT64", [1, 1], [agent_id]),
    ]
    return given + ([tensor("hidden", "FP32", [1, 6], hidden)] if hidden else [])


def infer(http: httpx.Client, given: list[dict[str, Any]], **parameters: Any) -> httpx.Response:
    return http.post(INFER, json={"inputs": given, "parameters": parameters})


def outputs(answer: httpx.Response) -> dict[str, list[Any]]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def twin(model: AgentModel, last_action: int, hidden: bytes, agent_id: int = 0) -> StepResult:
    (result,) = model.step([Row(OBS.tobytes(), MASK.tobytes(), last_action, agent_id, hidden)])
    assert isinstance(result, StepResult)
    return result


def request(last_action: int = -1, agent_id: int = 0, hidden: bytes = b"") -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="tiny", id="one")
    for name, datatype, width, data in (
        ("obs", "FP32", 7, OBS.tobytes()),
        ("avail_actions", "BOOL", 5, MASK.tobytes()),
        ("last_action", "INT64", 1, struct.pack("<q", last_action)),
        ("agent_id", "INT64", 1, struct.pack("<q", agent_id)),
        ("hidden", "FP32", 6, hidden),
    ):
        if data:
            made.inputs.add(name=name, datatype=datatype, shape=[1, width])
            made.raw_input_contents.append(data)
    return made


def of_sequence(
    made: pb.ModelInferRequest, sequence: int | str, start: bool = False, end: bool = False
) -> pb.ModelInferRequest:
    if isinstance(sequence, str):
        made.parameters["sequence_id"].string_param = sequence
    else:
        made.parameters["sequence_id"].int64_param = sequence
    made.parameters["sequence_start"].bool_param = start
    made.parameters["sequence_end"].bool_param = end
    return made


def raw(answer: pb.ModelInferResponse) -> dict[str, bytes]:
    names = [output.name for output in answer.outputs]
    return dict(zip(names, answer.raw_output_contents, strict=True))


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return pb_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]


def test_the_server_describes_itself_at_both_doors(http: httpx.Client, stub: Any) -> None:
    assert http.get("/v2").json() == {
        "name": "unmix",
        "version": "1",
        "extensions": ["sequence", "sequence(string_id)", "binary_tensor_data"],
    }
    assert http.get("/v2/health/live").status_code == 200
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ServerMetadata(pb.ServerMetadataRequest()).name == "unmix"
    described = stub.ModelMetadata(pb.ModelMetadataRequest(name="tiny"))
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        answer = http.get(path).json()
        assert answer["inputs"] == [
            {"name": "obs", "datatype": "FP32", "shape": [-1, 7]},
            {"name": "avail_actions", "datatype": "BOOL", "shape": [-1, 5]},
            {"name": "last_action", "datatype": "INT64", "shape": [-1, 1]},
            {"name": "agent_id", "datatype": "INT64", "shape": [-1, 1]},
            {"name": "hidden", "datatype": "FP32", "shape": [-1, 6]},
        ]
        assert [output["name"] for output in answer["outputs"]] == [
            "action", "q_values", "next_hidden",
        ]  # fmt: skip
        for door, field in ((described.inputs, "inputs"), (described.outputs, "outputs")):
            found = [{"name": it.name, "datatype": it.datatype, "shape": list(it.shape)}
                     for it in door]  # fmt: skip
            assert found == answer[field]
    assert http.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    assert http.get("/v2/models/tiny/versions/2/ready").status_code == 404
    assert stub.ModelReady(pb.ModelReadyRequest(name="tiny", version="1")).ready
    assert not stub.ModelReady(pb.ModelReadyRequest(name="tiny", version="2")).ready


def test_carried_memory_gives_the_model_s_own_bits(
    http: httpx.Client, stub: Any, model: AgentModel
) -> None:
    last_action, hidden = -1, model.first_hidden
    over_rest: list[float] | None = None
    over_grpc = b""
    for _ in range(5):
        expected = twin(model, last_action, hidden, agent_id=2)
        answer = outputs(infer(http, inputs(last_action, 2, over_rest)))
        assert answer["action"] == [expected.action]
        assert np.array(answer["q_values"], "<f4").tobytes() == expected.q_values
        assert np.array(answer["next_hidden"], "<f4").tobytes() == expected.next_hidden
        replied = stub.ModelInfer(request(last_action, 2, over_grpc))
        assert (replied.model_name, replied.model_version, replied.id) == ("tiny", "1", "one")
        assert raw(replied) == {
            "action": struct.pack("<q", expected.action),
            "q_values": expected.q_values,
            "next_hidden": expected.next_hidden,
        }
        over_rest, over_grpc = answer["next_hidden"], expected.next_hidden
        last_action, hidden = expected.action, expected.next_hidden


def test_a_sequence_remembers_and_is_the_same_at_both_doors(
    http: httpx.Client, stub: Any, model: AgentModel
) -> None:
    last_action, hidden = -1, model.first_hidden
    for step in range(6):
        expected = twin(model, last_action, hidden)
        start, end = step == 0, step == 5
        if step % 2:  # the caller is one and the same address
            replied = stub.ModelInfer(of_sequence(request(last_action), 77, start, end))
            assert set(raw(replied)) == {"action", "q_values"}
            assert raw(replied)["q_values"] == expected.q_values
        else:
            flags = {"sequence_id": 77, "sequence_start": start, "sequence_end": end}
            answer = outputs(infer(http, inputs(last_action), **flags))
            assert answer["action"] == [expected.action]
            assert np.array(answer["q_values"], "<f4").tobytes() == expected.q_values
        last_action, hidden = expected.action, expected.next_hidden
    assert infer(http, inputs(last_action), sequence_id=77).status_code == 404


def test_a_sequence_takes_what_the_unit_really_did_and_may_leave_it_out(
    http: httpx.Client, model: AgentModel
) -> None:
    first = twin(model, -1, model.first_hidden)
    for last_action in (first.action, 3):
        outputs(infer(http, inputs(), sequence_id="a", sequence_start=True))
        given = [it for it in inputs(last_action) if it["name"] != "agent_id"]
        if last_action == first.action:
            given = [it for it in given if it["name"] != "last_action"]
        answer = outputs(infer(http, given, sequence_id="a"))
        expected = twin(model, last_action, first.next_hidden)
        assert np.array(answer["q_values"], "<f4").tobytes() == expected.q_values


def test_a_sequence_begins_anew_and_goes_on_from_a_memory(
    http: httpx.Client, model: AgentModel
) -> None:
    first = twin(model, -1, model.first_hidden)
    for _ in range(2):  # a start resets
        answer = outputs(infer(http, inputs(), sequence_id=5, sequence_start=True))
        assert np.array(answer["q_values"], "<f4").tobytes() == first.q_values
    hidden = np.frombuffer(first.next_hidden, "<f4").tolist()
    resumed = inputs(first.action, hidden=hidden)
    answer = outputs(infer(http, resumed, sequence_id=6, sequence_start=True, sequence_end=True))
    second = twin(model, first.action, first.next_hidden)
    assert np.array(answer["q_values"], "<f4").tobytes() == second.q_values


def test_a_refused_step_leaves_the_sequence_as_it_was(
    http: httpx.Client, model: AgentModel
) -> None:
    outputs(infer(http, inputs(), sequence_id=8, sequence_start=True))
    first = twin(model, -1, model.first_hidden)
    no_action = inputs(first.action)
    no_action[1]["data"] = [False] * 5
    for start in (False, True):
        answer = infer(http, no_action, sequence_id=8, sequence_start=start)
        assert answer.status_code == 400
        assert answer.json() == {"error": "avail_actions leaves no action to take"}
    kept = outputs(infer(http, inputs(first.action), sequence_id=8, sequence_end=True))
    second = twin(model, first.action, first.next_hidden)
    assert np.array(kept["q_values"], "<f4").tobytes() == second.q_values


def test_bytes_may_follow_the_json_and_so_do_the_answer_s(
    http: httpx.Client, model: AgentModel
) -> None:
    pieces = [OBS.tobytes(), MASK.tobytes(), struct.pack("<q", 1)]
    given = inputs(last_action=1)
    for it, piece in zip(given, pieces, strict=False):
        del it["data"]
        it["parameters"] = {"binary_data_size": len(piece)}
    content = {
        "id": "x",
        "inputs": given,
        "outputs": [{"name": "q_values"}, {"name": "action", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(content).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = http.post(INFER, content=b"".join([head, *pieces]), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    expected = twin(model, 1, model.first_hidden)
    described = json.loads(answer.content[:length])
    assert described == {
        "model_name": "tiny",
        "model_version": "1",
        "id": "x",
        "outputs": [
            {
                "name": "q_values",
                "datatype": "FP32",
                "shape": [1, 5],
                "parameters": {"binary_data_size": 20},
            },
            {"name": "action", "datatype": "INT64", "shape": [1, 1], "data": [expected.action]},
        ],
    }
    assert answer.content[length:] == expected.q_values
    for wrong in ("-1", "x", str(len(head) + 1000), str(len(head) - 1)):
        headers = {"Inference-Header-Content-Length": wrong}
        answer = http.post(INFER, content=b"".join([head, *pieces]), headers=headers)
        assert answer.status_code == 400
        assert set(answer.json()) == {"error"}


def test_many_rows_nested_or_flat_are_each_the_agent_s_own(
    http: httpx.Client, model: AgentModel
) -> None:
    given = [
        tensor("obs", "FP32", [3, 7], [OBS.tolist()] * 3),
        tensor("avail_actions", "BOOL", [3, 5], [int(it) for it in MASK] * 3),
        tensor("last_action", "INT64", [3], [0, 1, 2]),
        tensor("agent_id", "INT64", [3, 1], [[0], [1], [2]]),
        tensor("hidden", "FP32", [3, 6], [0.0] * 18),
    ]
    answer = infer(http, given)
    assert [output["shape"] for output in answer.json()["outputs"]] == [[3, 1], [3, 5], [3, 6]]
    expected = [twin(model, agent, model.first_hidden, agent) for agent in range(3)]
    assert outputs(answer)["action"] == [result.action for result in expected]
    found = np.array(outputs(answer)["q_values"], "<f4").tobytes()
    assert found == b"".join(result.q_values for result in expected)


def changed(name: str, **fields: Any) -> list[dict[str, Any]]:
    return [it | fields if it["name"] == name else it for it in inputs()]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "no inputs"),
        (inputs()[:1], "avail_actions is missing"),
        (inputs()[:3], "agent_id is missing"),
        ([*inputs(), inputs()[0]], "obs is there more than once"),
        ([*inputs(), tensor(SECRET, "FP32", [1, 1], [0])], "an input that the model does not have"),
        (changed("obs", datatype="FP64"), "datatype must be one of"),
        (changed("obs", datatype="BOOL", data=[0] * 7), "obs must have datatype FP32"),
        (changed("obs", shape=[1, 8]), "obs must have shape [N, 7]"),
        (changed("obs", shape=[]), "no inputs with rows"),
        (changed("obs", shape=[0, 7], data=[]), "there are no rows"),
        (changed("obs", shape=[-1, 7]), "there are no rows"),
        (changed("agent_id", shape=[2, 1]), "agent_id must have shape [N, 1]"),
        (changed("obs", data=[0.0] * 6), "obs has 24 bytes; its shape asks for 28"),
        (changed("obs", data=[1e39] * 7), "too large for float32"),
        (changed("obs", data=[2e6] * 7), "obs[0] is not a number in [-1e+06, 1e+06]"),
        (changed("obs", data=[True] * 7), "values that are not FP32"),
        (changed("obs", data=[SECRET] * 7), "values that are not FP32"),
        (changed("obs", data=None), "either data or binary_data_size"),
        (changed("avail_actions", data=[2] * 5), "values other than 0 and 1"),
        (changed("last_action", data=[5]), "last_action must be -1 (none yet) to 4"),
        (changed("last_action", data=[0.5]), "values that are not INT64"),
        (changed("obs", parameters={"shared_memory_region": SECRET}), "a field that this request"),
        (inputs(hidden=[0.0] * 5 + [1.5]), "hidden[5] is not a number in [-1.001, 1.001]"),
    ],
)
def test_what_makes_no_sense_is_refused_in_the_protocol_s_form(
    http: httpx.Client, given: list[dict[str, Any]], says: str
) -> None:
    answer = infer(http, given)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("parameters", "status", "says"),
    [
        ({"sequence_start": True}, 400, "sequence_id is needed"),
        ({"sequence_id": 404}, 404, "no such sequence"),
        ({"sequence_id": -1}, 400, "sequence_id"),
        ({"sequence_id": 2**64}, 400, "sequence_id"),
        ({"sequence_id": SECRET * 10, "sequence_start": True}, 400, "more than 128 characters"),
        ({"sequence_id": 1.5}, 400, "sequence_id"),
        ({"timeout": -1}, 400, "timeout"),
    ],
)
def test_parameters_that_make_no_sense(
    http: httpx.Client, parameters: dict[str, Any], status: int, says: str
) -> None:
    answer = infer(http, inputs(), **parameters)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert SECRET not in answer.text


def test_what_a_sequence_does_not_take(http: httpx.Client) -> None:
    outputs(infer(http, inputs(agent_id=1), sequence_id=30, sequence_start=True))
    for given, says in (
        (inputs(agent_id=2), "the sequence is another agent's"),
        (inputs(agent_id=1, hidden=[0.0] * 6), "hidden is the sequence's"),
        (changed("obs", shape=[2, 7]), "exactly one row"),
    ):
        answer = infer(http, given, sequence_id=30)
        assert answer.status_code == 400
        assert says in answer.json()["error"]
    body = {"inputs": inputs(agent_id=1), "parameters": {"sequence_id": 30}}
    answer = http.post("/v2/models/tiny/versions/2/infer", json=body)
    assert answer.json() == {"error": "the sequence is with tiny version 1"}


def test_nobody_reaches_a_sequence_as_a_rest_session(http: httpx.Client) -> None:
    outputs(infer(http, inputs(), sequence_id="mine", sequence_start=True))
    for path in ("mine", "127.0.0.1", "('127.0.0.1', 'tiny', 'mine')"):
        assert http.delete(f"/sessions/{path}").status_code == 404


def test_paths_methods_and_bodies_that_are_not_the_protocol_s(http: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/v2/", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models//ready", 404),
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/tiny/versions/x", 404),
        ("GET", "/v2/models/tiny/versions//ready", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("DELETE", "/v2/models/tiny", 405),
        ("POST", "/v2/models/nothing/infer", 404),
    ):
        answer = http.request(method, path, json={"inputs": inputs()})
        assert answer.status_code == status, path
        assert set(answer.json()) == {"error"}
    nan = json.dumps({"inputs": changed("obs", data=[float("nan")] * 7)}).encode()
    for content, headers in (
        (b"", {}), (b"{", {}), (b"[]", {}), (b'{"inputs": 3}', {}), (nan, {}),
        (b'{"inputs": [{"name": "\\ud800", "datatype": "BYTES", "shape": [1], "data": [""]}]}', {}),
        (b"{}", {"content-encoding": "gzip"}),
    ):  # fmt: skip
        answer = http.post(INFER, content=content, headers=headers)
        assert answer.status_code == 400, content
        assert set(answer.json()) == {"error"}


def refused(call: Callable[[], Any]) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def test_faults_over_grpc_are_statuses_and_a_stream_outlives_them(stub: Any) -> None:
    bad = request(hidden=np.full(6, np.nan, "<f4").tobytes())
    error = refused(lambda: stub.ModelInfer(bad))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "hidden[0] is not a number in [-1.001, 1.001]"
    error = refused(lambda: stub.ModelInfer(of_sequence(request(), 999)))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    short = request()
    del short.raw_input_contents[0]
    assert refused(lambda: stub.ModelInfer(short)).code() == grpc.StatusCode.INVALID_ARGUMENT
    late = request()
    late.parameters["timeout"].string_param = "x"
    assert refused(lambda: stub.ModelInfer(late)).details().startswith("timeout must be")
    sent = [of_sequence(request(), 40, start=True), bad, of_sequence(request(1), 40, end=True)]
    answers = list(stub.ModelStreamInfer(iter(sent)))
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert answers[1].infer_response.id == "one"
    assert raw(answers[0].infer_response)["q_values"] != raw(answers[2].infer_response)["q_values"]


def test_numbers_may_come_as_numbers_over_grpc(stub: Any, model: AgentModel) -> None:
    made = pb.ModelInferRequest(model_name="tiny", model_version="1")
    made.inputs.add(name="obs", datatype="FP32", shape=[1, 7]).contents.fp32_contents.extend(OBS)
    made.inputs.add(
        name="avail_actions", datatype="BOOL", shape=[1, 5]
    ).contents.bool_contents.extend(MASK.tolist())
    made.inputs.add(name="agent_id", datatype="INT64", shape=[1]).contents.int64_contents.append(1)
    made.outputs.add(name="q_values")
    expected = twin(model, -1, model.first_hidden, agent_id=1)
    assert raw(stub.ModelInfer(made)) == {"q_values": expected.q_values}
    made.raw_input_contents.extend([b""] * 3)
    assert "not both" in refused(lambda: stub.ModelInfer(made)).details()


def test_sequences_and_sessions_share_their_caps_and_bodies_theirs(
    strict_server: RunningServer,
) -> None:
    with httpx.Client(base_url=strict_server.rest, trust_env=False) as http:
        outputs(infer(http, inputs(), sequence_id=1, sequence_start=True))
        outputs(infer(http, inputs(), sequence_id=1, sequence_start=True))  # the same place
        for answer in (
            infer(http, inputs(), sequence_id=2, sequence_start=True),
            http.post("/sessions", json={"agent_id": 0, "model": "tiny"}),
        ):
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
        outputs(infer(http, inputs(), sequence_id=3, sequence_start=True, sequence_end=True))
        outputs(infer(http, inputs(1), sequence_id=1, sequence_end=True))
        outputs(infer(http, inputs(), sequence_id=2, sequence_start=True))
        assert infer(http, inputs(), sequence_id=2, sequence_end=True).status_code == 200
        assert infer(http, changed("obs", data=[0.123456789] * 1000)).status_code == 413
        assert http.get("/v2/models/tiny/versions/2/ready").status_code == 503


def test_a_step_that_is_late_is_504(late_server: RunningServer) -> None:
    with httpx.Client(base_url=late_server.rest, trust_env=False) as http:
        answer = infer(http, inputs())
        assert answer.status_code == 504
        assert set(answer.json()) == {"error"}


def test_a_caller_s_own_limit_is_kept_at_both_doors(http: httpx.Client, stub: Any) -> None:
    assert infer(http, inputs(), timeout=1).status_code == 504
    made = request()
    made.parameters["timeout"].int64_param = 1
    assert refused(lambda: stub.ModelInfer(made)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert infer(http, inputs(), timeout=10**7).status_code == 200


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, policy: Policy
) -> Iterator[tuple[RunningServer, dict[str, str]]]:
    """With credentials, sealed memory, and room for few rows at a time."""
    root = tmp_path_factory.mktemp("guarded")
    write_artifact(root / "models", policy)
    roles: tuple[Role, ...] = ("act", "observe", "admin")
    keys: dict[str, str] = dict(zip(roles, write_keys(root / "keys", *roles), strict=True))
    (root / "memory").write_text(line("k", bytes(32)))
    settings = {"keys": root / "keys", "memory_keys": root / "memory", "max_rows": 2}
    with RunningServer(root / "models", settings) as server:
        yield server, keys


def test_each_path_has_its_role() -> None:
    for path, role in (
        ("/v2/health/live", None), ("/v2/health/ready", None), ("/v2", "observe"),
        ("/v2/models/x", "observe"), ("/v2/models/x/ready", "observe"), (INFER, "act"),
        ("/v2/models/x/versions/1/infer", "act"), ("/v2/health/live/", "observe"),
    ):  # fmt: skip
        assert role_for(path) == role


def test_who_may_and_whose_a_sequence_is(
    guarded: tuple[RunningServer, dict[str, str]],
) -> None:
    server, keys = guarded
    bearer = {role: {"authorization": f"Bearer {key}"} for role, key in keys.items()}
    with httpx.Client(base_url=server.rest, trust_env=False) as http:
        body = {"inputs": inputs(), "parameters": {"sequence_id": 1, "sequence_start": True}}
        for headers, status in (({}, 401), (bearer["observe"], 403), (bearer["act"], 200)):
            answer = http.post(INFER, json=body, headers=headers)
            assert answer.status_code == status
            assert ("error" in answer.json()) is (status != 200)
        body["parameters"] = {"sequence_id": 1}
        assert http.post(INFER, json=body, headers=bearer["admin"]).status_code == 404
        assert http.post(INFER, json=body, headers=bearer["act"]).status_code == 200
        assert http.get("/v2/health/ready").status_code == 200
        rows = [
            tensor("obs", "FP32", [3, 7], OBS.tolist() * 3),
            tensor("avail_actions", "BOOL", [3, 5], MASK.tolist() * 3),
            tensor("agent_id", "INT64", [3, 1], [0, 1, 2]),
        ]
        answer = http.post(INFER, json={"inputs": rows}, headers=bearer["act"])
        assert answer.status_code == 413
    with grpc.insecure_channel(server.grpc) as channel:
        stub: Any = pb_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        error = refused(lambda: stub.ModelInfer(request()))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        metadata = (("x-api-key", keys["observe"]),)
        assert stub.ModelReady(pb.ModelReadyRequest(name="tiny"), metadata=metadata).ready
        error = refused(lambda: stub.ModelInfer(request(), metadata=metadata))
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED


def test_sealed_memories_are_texts(
    guarded: tuple[RunningServer, dict[str, str]], model: AgentModel
) -> None:
    server, keys = guarded
    headers = {"authorization": f"Bearer {keys['admin']}"}
    first = twin(model, -1, model.first_hidden)
    second = twin(model, first.action, first.next_hidden)
    with httpx.Client(base_url=server.rest, trust_env=False, headers=headers) as http:
        assert http.get("/v2/models/tiny").json()["inputs"][4] == {
            "name": "hidden", "datatype": "BYTES", "shape": [-1, 1],
        }  # fmt: skip
        answer = outputs(infer(http, inputs()))
        (token,) = answer["next_hidden"]
        given = [*inputs()[:2], inputs()[3], tensor("hidden", "BYTES", [1, 1], [token])]
        answer = outputs(infer(http, given))
        assert np.array(answer["q_values"], "<f4").tobytes() == second.q_values
        for forged in (token[:-4] + "AAAA", "x", "", "é"):
            given[-1]["data"] = [forged]
            refusal = infer(http, given)
            assert refusal.status_code == 400
            assert "hidden" in refusal.json()["error"]
    with grpc.insecure_channel(server.grpc) as channel:
        stub: Any = pb_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        made = request(first.action)
        made.inputs.add(name="hidden", datatype="BYTES", shape=[1, 1])
        made.raw_input_contents.append(struct.pack("<I", len(token)) + token.encode())
        metadata = (("x-api-key", keys["act"]),)
        assert raw(stub.ModelInfer(made, metadata=metadata))["q_values"] == second.q_values
        made.raw_input_contents[-1] = b"\xff\xff\xff\xff" + token.encode()
        error = refused(lambda: stub.ModelInfer(made, metadata=metadata))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_what_callers_send_makes_no_new_series(http: httpx.Client) -> None:
    def series() -> set[str]:
        lines = http.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0] for line in lines if line.startswith("unmix")}

    def ask(word: str) -> None:
        for path in (f"/v2/{word}", f"/v2/models/{word}", f"/v2/models/{word}/infer"):
            http.post(path, json={"inputs": inputs(), "parameters": {"sequence_id": word}})
        infer(http, inputs(), sequence_id=word)

    ask("first")
    before = series()
    for number in range(5):
        ask(f"word-{number}")
    assert series() == before
    assert 'unmix_requests_total{code="session_not_found",door="rest_v2"}' in before
    assert 'unmix_requests_total{code="ok",door="grpc_v2"}' in before


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:5000", "127.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[::1]:5000", "::1"),
        ("unix:", "unix:"),
    ],
)
def test_a_peer_s_address_is_what_http_calls_it(peer: str, host: str) -> None:
    assert host_of(peer) == host
