"""Credentials and request ids at both doors of real servers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.access.entry import Access
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc
from serving.rest.api import Receive, Scope, Send
from serving.rest.front import RestFront, role_for
from serving.settings import Role, Settings
from tests.serving.issuer import SETTINGS, Issuer
from tests.serving.running import RunningServer
from tests.serving.test_access import write_keys

OBS = np.linspace(-1, 1, 7, dtype="<f4")
MASK = np.array([False, True, True, False, True])
BODY = {"obs": OBS.tolist(), "avail_actions": MASK.tolist()}
ACT = pb.ActRequest(obs=OBS.tobytes(), avail_actions=MASK.tobytes())


class Guarded(NamedTuple):
    """A server that asks for credentials, and some that hold."""

    server: RunningServer
    http: httpx.Client
    agents: Any
    channel: grpc.Channel
    keys: dict[Role, str]
    file: Path
    issuer: Issuer


@pytest.fixture(scope="module")
def guarded(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    roles: tuple[Role, ...] = ("act", "observe", "admin")
    keys = dict(zip(roles, write_keys(folder / "keys", *roles), strict=True))
    issuer = Issuer()
    settings = {
        "keys": folder / "keys",
        "jwks": issuer.write(folder / "jwks"),
        "log_level": "debug",
        **SETTINGS,
    }
    with (
        RunningServer(models, settings) as server,
        httpx.Client(base_url=server.rest, trust_env=False) as http,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        agents: Any = pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
        yield Guarded(server, http, agents, channel, keys, folder / "keys", issuer)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def refused(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def details(error: Any) -> status_pb2.Status:
    data = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return status_pb2.Status.FromString(data)


def act(guarded: Guarded, token: str) -> int:
    answer = guarded.http.post("/agents/0/act", json=BODY, headers=bearer(token))
    return answer.status_code


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/livez", None), ("/readyz", None), ("/agents/0/act", "act"), ("/act", "act"),
        ("/sessions", "act"), ("/sessions/x/reset", "act"), ("/models", "observe"),
        ("/models/tiny", "observe"), ("/metrics", "observe"), ("/docs", "observe"),
        ("/openapi.json", "observe"), ("/admin/models", "admin"), ("/livez/", "observe"),
        ("//livez", "observe"), ("", "observe"), ("*", "observe"),
    ],
)  # fmt: skip
def test_every_path_has_its_role(path: str, role: Role | None) -> None:
    assert role_for(path) == role


async def test_a_door_of_its_own_may_need_a_role_for_every_path(tmp_path: Path) -> None:
    roles: tuple[Role, ...] = ("act", "admin")
    act_key, admin_key = write_keys(tmp_path / "keys", *roles)

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    front = RestFront(app, Access(Settings(keys=tmp_path / "keys")), needs=lambda _: "admin")
    for key, status in (("", 401), (act_key, 403), (admin_key, 204)):
        transport = httpx.ASGITransport(front)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
            for path in ("/livez", "/models"):
                assert (await http.get(path, headers={"x-api-key": key})).status_code == status


def test_probes_need_no_credential(guarded: Guarded) -> None:
    assert guarded.http.get("/livez").status_code == 200
    assert guarded.http.get("/readyz").status_code == 200
    health: Any = health_pb2_grpc.HealthStub(guarded.channel)
    for service in ("", "unmix.v1.AgentService"):
        request = health_pb2.HealthCheckRequest(service=service)
        assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(request)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


def test_everything_else_does(guarded: Guarded) -> None:
    for method, path in (
        ("POST", "/agents/0/act"), ("POST", "/sessions"), ("POST", "/sessions/x/reset"),
        ("DELETE", "/sessions/x"), ("GET", "/models"), ("GET", "/models/tiny"),
        ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nowhere"),
        ("HEAD", "/models"), ("OPTIONS", "/models"), ("GET", "/%6dodels"), ("GET", "/livez/models"),
    ):  # fmt: skip
        answer = guarded.http.request(method, path, content=b"{}")
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert answer.json()["type"] == "urn:unmix:problem:not-authenticated"
    for call in (
        lambda: guarded.agents.Act(ACT),
        lambda: next(guarded.agents.ActStream(iter(()))),
        lambda: guarded.agents.ListModels(pb.ListModelsRequest()),
        lambda: guarded.agents.GetModel(pb.GetModelRequest()),
    ):
        error = refused(call)
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        info = error_details_pb2.ErrorInfo()
        details(error).details[0].Unpack(info)
        assert info.reason == "NOT_AUTHENTICATED"
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    error = refused(lambda: next(reflection.ServerReflectionInfo(iter([request]))))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_each_role_opens_the_same_at_both_doors(guarded: Guarded) -> None:
    for role, may_act, may_observe in (
        ("act", True, False), ("observe", False, True), ("admin", True, True),
    ):  # fmt: skip
        key = guarded.keys[role]  # type: ignore[index]
        metadata = tuple(bearer(key).items())
        assert act(guarded, key) == (200 if may_act else 403)
        answer = guarded.http.get("/models", headers={"x-api-key": key})
        assert answer.status_code == (200 if may_observe else 403)
        for may, method, request in (
            (may_act, guarded.agents.Act, ACT),
            (may_observe, guarded.agents.ListModels, pb.ListModelsRequest()),
        ):
            call = partial(method, request, metadata=metadata)
            if may:
                call()
            else:
                assert refused(call).code() == grpc.StatusCode.PERMISSION_DENIED


def test_tokens_open_both_doors(guarded: Guarded) -> None:
    for kid in ("r", "e"):
        token = guarded.issuer.token(kid)
        for _ in range(2):  # verified, then remembered
            assert act(guarded, token) == 200
        guarded.agents.Act(ACT, metadata=(("authorization", f"bearer {token}"),))
    for token in (guarded.issuer.token(exp=1), "x" * 20_000):
        assert act(guarded, token) == 401
    assert act(guarded, guarded.issuer.token(scope="other")) == 403


def test_a_key_is_revoked_without_a_restart(guarded: Guarded) -> None:
    before = guarded.file.read_text()
    key = guarded.keys["act"]
    stream = guarded.agents.ActStream(_forever(), metadata=(("x-api-key", key),))
    next(stream)
    guarded.file.write_text("".join(line for line in before.splitlines(True) if "act" not in line))
    deadline = time.monotonic() + 5
    while act(guarded, key) == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    error = refused(lambda: list(stream))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    guarded.file.write_text(before + "\n")
    while act(guarded, key) != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _forever() -> Iterator[pb.ActStreamRequest]:
    yield pb.ActStreamRequest(begin=pb.Episode())
    while True:
        time.sleep(0.01)
        yield pb.ActStreamRequest(obs=OBS.tobytes(), avail_actions=MASK.tobytes())


def test_requests_have_ids(guarded: Guarded) -> None:
    made = set()
    for given in ("", "a b", "a" * 65, "é", "<script>", 'x"y', "a/b"):
        answer = guarded.http.get("/livez", headers={b"x-request-id": given.encode()})
        assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", answer.headers["x-request-id"])
        made.add(answer.headers["x-request-id"])
    assert len(made) == 7
    key = guarded.keys["act"]
    for path, status in (("/livez", 200), ("/agents/0/act", 200), ("/models", 403)):
        answer = guarded.http.request(
            "POST" if "act" in path else "GET",
            path,
            json=BODY,
            headers=bearer(key) | {"x-request-id": "My.id_1-2"},
        )
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, "My.id_1-2")
    known, unknown = ((("x-api-key", token), ("x-request-id", "My.id_3")) for token in (key, "x"))
    _, call = guarded.agents.Act.with_call(ACT, metadata=known)
    error = refused(lambda: guarded.agents.Act(ACT, metadata=unknown))
    for ended in (call, error):
        trailing: Any = ended.trailing_metadata()
        assert dict(trailing)["x-request-id"] == "My.id_3"


def test_the_log_has_ids_but_no_secrets_and_no_control_characters(guarded: Guarded) -> None:
    planted = "PLANTED-secret"
    odd = "odd\x7f\x80value"
    for headers in (
        bearer(planted),
        {"x-api-key": f"unmix_{planted}_x"},
        {"authorization": f"Basic {planted}"},
        {"x-request-id": planted + " {}\t%s"},
        {"user-agent": odd + planted},
    ):
        encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        guarded.http.get(f"/models/{planted}%0a%1b[2J", headers=encoded)
        guarded.http.post("/agents/0/act", content=planted + "\n", headers=encoded)
    refused(lambda: guarded.agents.Act(ACT, metadata=(("x-api-key", planted + "~"),)))
    guarded.http.get("/livez", headers={"x-request-id": "the-last"})
    deadline = time.monotonic() + 5
    while not any("the-last" in line for line in guarded.server.log):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    log = "".join(guarded.server.log)
    assert "PLANTED" not in log
    for key in guarded.keys.values():
        assert key not in log
        assert key.rpartition("_")[2] not in log
    assert guarded.issuer.token()[:40] not in log
    assert not re.search(r"[^\x20-\x7e\n]", log)
    lines = [json.loads(line) for line in guarded.server.log]
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    assert any(line.get("request_id") == "the-last" for line in lines)


def test_what_callers_send_makes_no_new_series(guarded: Guarded) -> None:
    admin = bearer(guarded.keys["admin"])

    def series() -> set[str]:
        text = guarded.http.get("/metrics", headers=admin).text
        names = {line.rpartition(" ")[0] for line in text.splitlines() if line[0] != "#"}
        return {name for name in names if name.startswith("unmix")}

    def ask(word: str) -> None:
        named = {**admin, "x-request-id": word}
        for path in (f"/{word}", f"/models/{word}", f"/agents/{word}/act", f"/act/{word}"):
            guarded.http.get(path, headers=named)
            guarded.http.post(path, json={**BODY, "model": word}, headers=named)
            guarded.http.post(path, json=BODY, headers=bearer(word))

    ask("first")
    before = series()
    for number in range(20):
        ask(f"word-{number}")
    assert series() == before
    assert 'unmix_requests_total{code="not_authenticated",door="rest"}' in before


def test_a_caller_over_its_rate_is_told_when_to_come_again(models: Path, tmp_path: Path) -> None:
    noisy, quiet = write_keys(tmp_path / "keys", "act", "admin")
    settings = {"keys": tmp_path / "keys", "rate_per_s": 0.01, "rate_burst": 4}
    with (
        RunningServer(models, settings) as server,
        httpx.Client(base_url=server.rest, trust_env=False) as http,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        agents: Any = pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
        metadata = (("x-api-key", noisy),)
        assert http.post("/agents/0/act", json=BODY, headers=bearer(noisy)).status_code == 200
        # The stream's opening and its first message are one request each; a second message is the
        # fourth, and a third is one too many.
        stream = agents.ActStream(_forever(), metadata=metadata)
        answers: list[Any] = []
        error = refused(lambda: answers.extend(stream))
        assert len(answers) == 2
        for over in (error, refused(lambda: agents.Act(ACT, metadata=metadata))):
            assert over.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            retry = error_details_pb2.RetryInfo()
            details(over).details[1].Unpack(retry)
            assert 90 <= retry.retry_delay.seconds <= 100
        answer = http.post("/agents/0/act", json=BODY, headers=bearer(noisy))
        assert answer.status_code == 429
        assert answer.json()["type"] == "urn:unmix:problem:rate-limited"
        assert 90 <= int(answer.headers["retry-after"]) <= 100
        assert http.post("/agents/0/act", json=BODY, headers=bearer(quiet)).status_code == 200
        assert http.get("/livez", headers=bearer(noisy)).status_code == 200


def test_every_row_of_a_message_counts_toward_the_rate(models: Path, tmp_path: Path) -> None:
    (noisy,) = write_keys(tmp_path / "keys", "act")
    settings = {"keys": tmp_path / "keys", "rate_per_s": 0.01, "rate_burst": 4}
    with (
        RunningServer(models, settings) as server,
        httpx.Client(base_url=server.rest, trust_env=False, headers=bearer(noisy)) as http,
    ):

        def rows(n: int) -> int:
            body = {"rows": [{"agent_id": i, **BODY} for i in range(n)]}
            return http.post("/act", json=body).status_code

        assert [rows(3), rows(2)] == [200, 429]
