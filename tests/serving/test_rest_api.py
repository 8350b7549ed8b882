"""The REST door, over the wire."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.errors import ServingError
from serving.metrics import Metrics
from serving.models.agent_model import AgentModel, Row, StepResult
from serving.models.repository import Repository
from serving.rest.api import PROBLEM_JSON, RestApi
from serving.settings import Settings
from serving.steps.service import AgentService
from serving.steps.sessions import Sessions
from tests.serving.running import RunningServer

OBS = [0.5, -0.25, 0.1, 1.0, 0.0, -1.0, 0.75]
MASK = [False, True, True, False, True]
HIDDEN = [0.1, -0.2, 0.3, -0.4, 0.5, -0.6]
BODY: dict[str, Any] = {"obs": OBS, "avail_actions": MASK}
SECRET = "XYZZY"
"""Sent wherever a caller may write text; no answer may repeat it."""


def floats(values: list[float]) -> bytes:
    return np.array(values, "<f4").tobytes()


def serial(model: AgentModel, agent: int, last: int, hidden: list[float]) -> StepResult:
    row = Row(floats(OBS), bytes(MASK), last, agent, floats(hidden))
    (result,) = model.step([row])
    assert isinstance(result, StepResult)
    return result


def act(http: httpx.Client, body: dict[str, Any], agent: object = 0) -> httpx.Response:
    return http.post(f"/agents/{agent}/act", json=body)


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM_JSON
    assert SECRET not in response.text
    content: dict[str, Any] = response.json()
    assert content["status"] == status
    assert content["type"].startswith("urn:unmix:problem:")
    assert content["title"]
    assert content["detail"]
    return content


@pytest.fixture
def strict(strict_server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=strict_server.rest, trust_env=False) as client:
        yield client


# Steps


def test_a_first_step_answers_the_action_and_the_memory(
    http: httpx.Client, model: AgentModel
) -> None:
    response = act(http, BODY, agent=2)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    expected = serial(model, 2, -1, [0.0] * 6)
    assert set(answer) == {"action", "model", "version", "next_hidden"}
    assert (answer["action"], answer["model"], answer["version"]) == (expected.action, "tiny", 1)
    assert floats(answer["next_hidden"]) == expected.next_hidden


def test_a_carried_step_is_exact_to_the_bit(http: httpx.Client, model: AgentModel) -> None:
    hidden, last = [0.0] * 6, -1
    for step in range(10):
        memory = {"hidden": hidden, "last_action": last} if step else {}
        answer = act(http, BODY | memory | {"want": ["q_values"], "version": 1}, agent=1).json()
        expected = serial(model, 1, last, hidden)
        assert floats(answer["next_hidden"]) == expected.next_hidden
        assert floats(answer["q_values"]) == expected.q_values
        assert answer["action"] == expected.action
        hidden, last = answer["next_hidden"], answer["action"]


def test_masks_may_be_numbers(http: httpx.Client) -> None:
    numbers = act(http, BODY | {"avail_actions": [0, 1, 1, 0, 1]})
    assert numbers.json() == act(http, BODY).json()


def test_a_body_needs_no_content_type(http: httpx.Client) -> None:
    response = http.post("/agents/0/act", content=json.dumps(BODY).encode())
    assert response.json() == act(http, BODY).json()


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"obs": OBS[1:]}, "obs", "obs has 6 values; tiny version 1 takes 7"),
        ({"obs": [*OBS, SECRET]}, "obs[7]", "float"),
        ({"obs": [*OBS[1:], True]}, "obs[6]", "float"),
        ({"obs": SECRET}, "obs", "array"),
        ({"obs": [*OBS[1:], 1e39]}, "obs", "too large for float32"),
        ({"obs": [*OBS[1:], 1e7]}, "obs", r"obs\[6\] is not a number in"),
        ({"avail_actions": MASK[1:]}, "avail_actions", "has 4 values; tiny version 1 takes 5"),
        ({"avail_actions": [False] * 5}, "avail_actions", "no action to take"),
        ({"avail_actions": [0, 1, 2, 0, 0]}, "avail_actions", "other than 0 and 1"),
        ({"avail_actions": [0, 1, -1, 0, 0]}, "avail_actions", "other than 0 and 1"),
        ({"avail_actions": [0, 1, 10**30, 0, 0]}, "avail_actions", "other than 0 and 1"),
        ({"avail_actions": [0, 1, 0.5, 0, 0]}, "avail_actions[2]", "int"),
        ({"last_action": 5}, "last_action", "to 4"),
        ({"last_action": -2}, "last_action", "-1"),
        ({"last_action": SECRET}, "last_action", "int"),
        ({"hidden": HIDDEN}, "last_action", "needed with hidden"),
        ({"hidden": HIDDEN[1:], "last_action": 0}, "hidden", "hidden has 5 values;"),
        ({"hidden": [], "last_action": 0}, "hidden", "empty"),
        ({"hidden": [2.0] * 6, "last_action": 0}, "hidden", r"hidden\[0\]"),
        ({"version": 0}, "version", "from 1"),
        ({"version": 2**40}, "version", "from 1"),
        ({"want": [SECRET]}, "want[0]", "next_hidden and q_values"),
        ({SECRET: 1}, "", "does not have"),
        ({"model": 5}, "model", "str"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(
    http: httpx.Client, change: dict[str, Any], field: str, words: str
) -> None:
    content = problem(act(http, BODY | change), 422)
    assert content["type"] == "urn:unmix:problem:invalid-request"
    assert [fault["field"] for fault in content["errors"]] == [field]
    assert re.search(words, content["detail"])


@pytest.mark.parametrize("missing", ["obs", "avail_actions"])
def test_a_missing_field_is_named(http: httpx.Client, missing: str) -> None:
    body = {name: value for name, value in BODY.items() if name != missing}
    assert missing in problem(act(http, body), 422)["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["obs", "hidden"])
def test_what_is_not_finite_is_refused(http: httpx.Client, field: str, number: str) -> None:
    body = json.dumps(BODY | {"hidden": HIDDEN, "last_action": 1, field: ["here"]})
    response = http.post("/agents/0/act", content=body.replace('"here"', number).encode())
    assert field in problem(response, 422)["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"obs",
        b'{"obs": [1,]}',
        b'\xff{"obs": []}',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b"\0" * 100,
        b'{"obs": NaN',
    ],
)
def test_what_is_no_json_is_a_400(http: httpx.Client, body: bytes) -> None:
    content = problem(http.post("/agents/0/act", content=body), 400)
    assert content["type"] == "urn:unmix:problem:malformed-request"


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b'{"obs": ' + b"[" * 50_000])
def test_json_that_is_no_request_is_a_422(http: httpx.Client, body: bytes) -> None:
    problem(http.post("/agents/0/act", content=body), 422)


@pytest.mark.parametrize("agent", ["3", "-1", SECRET, "1.0", "9" * 30, "0/0", "%00", "٣", "+1"])
def test_an_agent_that_is_not_there_is_a_404(http: httpx.Client, agent: str) -> None:
    content = problem(act(http, BODY, agent), 404)
    assert content["type"] == "urn:unmix:problem:agent-not-found"
    assert content["detail"] == "tiny version 1 has agents 0 to 2"


def test_a_model_that_is_not_there_is_a_404(http: httpx.Client) -> None:
    assert "there is tiny" in problem(act(http, BODY | {"model": SECRET}), 404)["detail"]
    assert "there is 1" in problem(act(http, BODY | {"version": 9}), 404)["detail"]


def test_with_several_models_one_must_be_named(strict: httpx.Client) -> None:
    content = problem(act(strict, BODY), 422)
    assert content["errors"][0]["field"] == "model"
    assert content["detail"] == "model must name one of other, tiny"
    assert act(strict, BODY | {"model": "other"}).json()["model"] == "other"


def test_a_refused_model_is_a_503_and_an_older_one_serves(strict: httpx.Client) -> None:
    response = act(strict, BODY | {"model": "tiny", "version": 2})
    assert problem(response, 503)["type"] == "urn:unmix:problem:model-not-ready"
    assert response.headers["retry-after"] == "1"
    assert act(strict, BODY | {"model": "tiny"}).json()["version"] == 1


def test_a_late_step_is_a_504(late_server: RunningServer) -> None:
    response = httpx.post(f"{late_server.rest}/agents/0/act", json=BODY, trust_env=False)
    assert problem(response, 504)["type"] == "urn:unmix:problem:deadline-exceeded"


def test_an_oversized_body_is_a_413_however_it_comes(strict: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(3000):
            yield b" "

    for content in (b" " * 3000, pieces()):
        response = strict.post("/agents/0/act", content=content)
        assert "2048 bytes" in problem(response, 413)["detail"]
    assert problem(strict.post("/sessions", content=b" " * 3000), 413)
    padded = json.dumps(BODY | {"model": "tiny"}).ljust(2048).encode()
    assert strict.post("/agents/0/act", content=padded).status_code == 200


# Sessions


def test_a_session_holds_memory_and_last_action(http: httpx.Client, model: AgentModel) -> None:
    response = http.post("/sessions", json={"agent_id": 1})
    assert response.status_code == 201
    opened = response.json()
    session = opened.pop("session")
    assert opened == {"agent_id": 1, "model": "tiny", "version": 1, "ttl_s": 600.0}
    for _ in range(2):
        hidden, last = [0.0] * 6, -1
        for step in range(6):
            given = {"last_action": 3} if step == 4 else {}
            body = BODY | {"session": session, "want": ["next_hidden"]} | given
            answer = act(http, body, agent=1).json()
            expected = serial(model, 1, given.get("last_action", last), hidden)
            assert floats(answer["next_hidden"]) == expected.next_hidden
            assert answer["action"] == expected.action
            hidden, last = answer["next_hidden"], answer["action"]
        assert http.post(f"/sessions/{session}/reset").json()["session"] == session
    assert set(act(http, BODY | {"session": session}, agent=1).json()) == {
        "action",
        "model",
        "version",
    }
    assert http.delete(f"/sessions/{session}").status_code == 204
    content = problem(act(http, BODY | {"session": session}, agent=1), 404)
    assert content["type"] == "urn:unmix:problem:session-not-found"


def test_a_session_may_resume_from_a_memory(http: httpx.Client, model: AgentModel) -> None:
    where = {"hidden": HIDDEN, "last_action": 2}
    session = http.post("/sessions", json={"agent_id": 0} | where).json()["session"]
    expected = serial(model, 0, 2, HIDDEN).action
    assert act(http, BODY | {"session": session}).json()["action"] == expected
    assert http.post(f"/sessions/{session}/reset", json=where).status_code == 200
    assert act(http, BODY | {"session": session}).json()["action"] == expected
    http.delete(f"/sessions/{session}")


def test_a_refused_step_leaves_the_session_as_it_was(http: httpx.Client, model: AgentModel) -> None:
    session = http.post("/sessions", json={"agent_id": 0}).json()["session"]
    first = act(http, BODY | {"session": session}).json()
    for change in ({"obs": [1e39] * 7}, {"obs": [1e7] * 7}, {"avail_actions": [False] * 5}):
        problem(act(http, BODY | {"session": session} | change), 422)
    second = act(http, BODY | {"session": session, "want": ["next_hidden"]}).json()
    before = serial(model, 0, -1, [0.0] * 6)
    hidden = np.frombuffer(before.next_hidden, "<f4").tolist()
    assert first["action"] == before.action
    expected = serial(model, 0, before.action, hidden)
    assert floats(second["next_hidden"]) == expected.next_hidden
    http.delete(f"/sessions/{session}")


def test_a_session_is_one_units_and_one_models(http: httpx.Client) -> None:
    session = http.post("/sessions", json={"agent_id": 0}).json()["session"]
    own = BODY | {"session": session}
    for body, agent, field in (
        (own, 1, "session"),
        (own | {"hidden": HIDDEN, "last_action": 0}, 0, "hidden"),
        (own | {"model": SECRET}, 0, "model"),
        (own | {"version": 2}, 0, "model"),
    ):
        assert problem(act(http, body, agent), 422)["errors"][0]["field"] == field
    assert act(http, own | {"model": "tiny", "version": 1}).status_code == 200
    http.delete(f"/sessions/{session}")


def test_sessions_that_cannot_be(http: httpx.Client) -> None:
    problem(http.post("/sessions", json={"agent_id": 3}), 404)
    problem(http.post("/sessions", json={"agent_id": 0, "model": SECRET}), 404)
    problem(http.post("/sessions", json={"agent_id": SECRET}), 422)
    problem(http.post("/sessions", json={"agent_id": 0, SECRET: 1}), 422)
    problem(http.post("/sessions", json={"agent_id": 0, "hidden": HIDDEN}), 422)
    problem(http.post("/sessions", content=b"{"), 400)
    problem(http.post("/sessions", json={}), 422)
    problem(http.post(f"/sessions/{SECRET}/reset"), 404)
    problem(http.delete(f"/sessions/{SECRET}"), 404)
    problem(act(http, BODY | {"session": SECRET}), 404)


def test_too_many_sessions_are_a_429_that_says_when(strict: httpx.Client) -> None:
    opened = strict.post("/sessions", json={"agent_id": 0, "model": "tiny"})
    assert opened.status_code == 201
    refused = strict.post("/sessions", json={"agent_id": 0, "model": "tiny"})
    assert problem(refused, 429)["type"] == "urn:unmix:problem:overloaded"
    assert 590 <= int(refused.headers["retry-after"]) <= 601
    strict.delete(f"/sessions/{opened.json()['session']}")
    again = strict.post("/sessions", json={"agent_id": 0, "model": "tiny"})
    assert again.status_code == 201
    strict.delete(f"/sessions/{again.json()['session']}")


# Everything else


def test_models_are_listed_with_what_they_are(strict: httpx.Client) -> None:
    models = strict.get("/models").json()["models"]
    found = [(m["name"], m["version"], m["state"], m["latest"]) for m in models]
    assert found == [
        ("other", 1, "ready", True),
        ("tiny", 1, "ready", True),
        ("tiny", 2, "refused", False),
    ]
    assert models[2]["reason"] == "model.onnx is not the file that the manifest describes"
    one = strict.get("/models/tiny").json()
    assert one == models[1] == strict.get("/models/tiny/versions/1").json()
    assert one["dims"] == {"n_agents": 3, "n_actions": 5, "obs_dim": 7, "hidden_dim": 6}
    assert (one["map"], one["algorithm"], one["episode_limit"]) == ("3s5z", "qmix", 150)
    assert strict.get("/models/tiny/versions/2").json() == models[2]
    for path in (f"/models/{SECRET}", "/models/tiny/versions/3", f"/models/tiny/versions/{SECRET}"):
        problem(strict.get(path), 404)


def test_probes_and_metrics(http: httpx.Client) -> None:
    assert http.get("/livez").json() == {"status": "alive"}
    assert http.get("/readyz").json() == {"status": "ready"}

    def count(code: str) -> float:
        text = http.get("/metrics").text
        label = f'unmix_requests_total{{code="{code}",door="rest"}} '
        return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(label))

    before = count("ok"), count("invalid_request")
    act(http, BODY)
    act(http, BODY | {"obs": []})
    assert (count("ok"), count("invalid_request")) == (before[0] + 1, before[1] + 1)


def test_no_such_route_or_method_is_a_problem_too(http: httpx.Client) -> None:
    problem(http.get(f"/{SECRET}"), 404)
    response = http.get("/agents/0/act")
    problem(response, 405)
    assert response.headers["allow"] == "POST"
    problem(http.delete("/models"), 405)


def test_openapi_documents_every_route_and_every_status(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/agents/{agent_id}/act",
        "/act",
        "/sessions",
        "/sessions/{session}",
        "/sessions/{session}/reset",
        "/models",
        "/models/{name}",
        "/models/{name}/versions/{version}",
        "/livez",
        "/readyz",
        "/metrics",
    }
    step = schema["paths"]["/agents/{agent_id}/act"]["post"]
    codes = {"200", "400", "404", "409", "413", "422", "429", "500", "503", "504"}
    assert set(step["responses"]) == codes
    assert set(step["responses"]["422"]["content"]) == {PROBLEM_JSON}
    request = schema["components"]["schemas"]["ActRequest"]
    assert request["required"] == ["obs", "avail_actions"]
    assert all("description" in field for field in request["properties"].values())
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema)):
        assert name in schema["components"]["schemas"]
    assert http.get("/docs").status_code == 200


def test_a_caller_that_stalls_is_hung_up_on_and_an_idle_one_is_not(
    strict_server: RunningServer,
) -> None:
    host, port = strict_server.rest.removeprefix("http://").split(":")
    body = json.dumps(BODY | {"model": "tiny"}).encode()
    head = b"POST /agents/0/act HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    for stalled in (b"", b"POST /agents/0/act HTTP/1.1\r\nhost: ", head + body[:-1]):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(stalled)
            start = time.monotonic()
            assert_hung_up(connection)
            assert 0.3 < time.monotonic() - start < 3
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        for pause in (0.0, 1.0):
            time.sleep(pause)
            connection.sendall(head + body)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(head[:20])
        assert_hung_up(connection)


def assert_hung_up(connection: socket.socket) -> None:
    """At the end of what the server says, which is nothing, or behind Envoy that it had enough."""
    said = b"".join(iter(lambda: connection.recv(4096), b""))
    assert said[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 408")


async def test_what_nobody_foresaw_is_a_500_that_tells_nothing(
    models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    repository = Repository(models)
    repository.load_all()
    service = AgentService(repository, Metrics(), Settings())
    api = RestApi(service, Sessions(1, 1), 1000)

    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    repository.resolve = repository.statuses = fail  # type: ignore[assignment, method-assign]
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for response in (
            await client.post("/agents/0/act", json=BODY),
            await client.get("/models"),
        ):
            content = problem(response, 500)
            assert content["detail"] == "internal error"
            assert content["request_id"] in caplog.text
    assert service.metrics.requests["rest", "internal"] == 1


def test_every_error_has_a_status_of_its_own_kind() -> None:
    from serving.rest.api import STATUS

    assert all(400 <= status < 600 for status in STATUS.values())
    assert all(issubclass(kind, ServingError) for kind in STATUS)


def test_one_client_cannot_take_all_sessions(models: Path) -> None:
    with (
        RunningServer(models, {"max_client_sessions": 2}) as running,
        httpx.Client(base_url=running.rest, trust_env=False) as client,
    ):
        opened = [client.post("/sessions", json={"agent_id": 0}) for _ in range(3)]
        assert [answer.status_code for answer in opened] == [201, 201, 429]
        assert "limit for one client" in opened[2].json()["detail"]
        assert opened[2].headers["retry-after"] == "1"
        client.delete(f"/sessions/{opened[0].json()['session']}")
        assert client.post("/sessions", json={"agent_id": 0}).status_code == 201
