"""TLS at both doors of real servers, with real certificates."""

from __future__ import annotations

import queue
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization

from serving.access.tls import open_tls
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc
from serving.settings import Settings, SetupError
from tests.serving.certificates import DAY, NOW, Authority, Files
from tests.serving.running import FRONT, RunningServer

pytestmark = pytest.mark.skipif(FRONT == "envoy", reason="the front behind Envoy has no TLS")

OBS = np.linspace(-1, 1, 7, dtype="<f4")
MASK = np.array([False, True, True, False, True])
BODY = {"obs": OBS.tolist(), "avail_actions": MASK.tolist()}
ACT = pb.ActRequest(obs=OBS.tobytes(), avail_actions=MASK.tobytes())


class Caller:
    """Trusts one authority, and shows a certificate if it has one."""

    def __init__(self, server: RunningServer, authority: Authority, own: Files | None = None):
        self.context = ssl.create_default_context(cafile=str(authority.file))
        if own:
            self.context.load_cert_chain(own.certificate, own.key)
        self.http = httpx.Client(base_url=server.rest, verify=self.context, trust_env=False)
        pair = (own.key.read_bytes(), own.certificate.read_bytes()) if own else (None, None)
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), *pair)
        # Else gRPC would share one connection among channels that look the same to it.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.secure_channel(server.grpc, credentials, options)
        self.agents: Any = pb_grpc.AgentServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.channel.close()

    def act(self) -> int:
        return self.http.post("/agents/0/act", json=BODY).status_code

    def rpc(self) -> pb.ActResponse:
        answer: pb.ActResponse = self.agents.Act(ACT, timeout=5)
        return answer


def serial(server: RunningServer, door: str, context: ssl.SSLContext) -> str:
    """The serial number of the certificate that a new connection gets."""
    address = server.grpc if door == "grpc" else server.rest.rpartition("//")[2]
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        return str((wrapped.getpeercert() or {})["serialNumber"])


def settings_of(files: Files, **more: Any) -> dict[str, Any]:
    return {"tls_certificate": files.certificate, "tls_key": files.key, **more}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_a_certificate_is_replaced_under_open_streams(
    models: Path, tmp_path: Path, authority: Authority
) -> None:
    files = authority.issue("server")
    with RunningServer(models, settings_of(files)) as server, Caller(server, authority) as caller:
        assert server.rest.startswith("https://")
        assert (caller.act(), caller.rpc().model) == (200, "tiny")
        requests: queue.SimpleQueue[pb.ActStreamRequest | None] = queue.SimpleQueue()
        stream = caller.agents.ActStream(iter(requests.get, None))
        requests.put(pb.ActStreamRequest(begin=pb.Episode()))
        assert next(stream).model == "tiny"
        old = serial(server, "grpc", caller.context)
        assert serial(server, "rest", caller.context) == old

        files.key.write_bytes(authority.issue("other").key.read_bytes())
        time.sleep(1.5)  # half of a replacement is no replacement
        assert {serial(server, door, caller.context) for door in ("grpc", "rest")} == {old}
        files.replace(authority.issue("next"))
        deadline = time.monotonic() + 5
        while {serial(server, door, caller.context) for door in ("grpc", "rest")} & {old}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for number in range(3):
            requests.put(
                pb.ActStreamRequest(
                    obs=OBS.tobytes(), avail_actions=MASK.tobytes(), sequence=number
                )
            )
            assert next(stream).sequence == number
        assert caller.act() == 200  # on its old connection
        requests.put(None)
        with Caller(server, authority) as later:
            assert (later.act(), later.rpc().model) == (200, "tiny")
        assert any("kept what was read before" in line for line in server.log)


@pytest.fixture(scope="module")
def mutual(models: Path, authority: Authority) -> Iterator[RunningServer]:
    settings = settings_of(authority.issue("mutual"), client_ca=authority.file)
    with RunningServer(models, settings) as server:
        yield server


def test_callers_are_known_by_their_certificates(
    mutual: RunningServer, authority: Authority
) -> None:
    with Caller(mutual, authority, authority.issue("unit-7")) as caller:
        assert (caller.act(), caller.rpc().model) == (200, "tiny")
        assert caller.http.get("/models").status_code == 403  # a certificate's role is act
        with pytest.raises(grpc.RpcError) as caught:
            caller.agents.ListModels(pb.ListModelsRequest(), timeout=5)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_probes_need_no_certificate(mutual: RunningServer, authority: Authority) -> None:
    with Caller(mutual, authority) as caller:
        assert caller.http.get("/readyz").status_code == 200
        assert caller.act() == 401


@pytest.mark.parametrize("kind", ["none", "stranger", "expired"])
def test_other_certificates_are_refused(
    mutual: RunningServer, authority: Authority, tmp_path: Path, kind: str
) -> None:
    own = None
    if kind == "stranger":
        own = Authority(tmp_path).issue("unit-7")
    elif kind == "expired":
        own = authority.issue("late", NOW - DAY)
    with Caller(mutual, authority, own) as caller:
        with pytest.raises(grpc.RpcError) as caught:
            caller.rpc()
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        if own:
            with pytest.raises(httpx.TransportError):
                caller.act()


def test_who_does_not_trust_the_authority_does_not_connect(
    mutual: RunningServer, tmp_path: Path
) -> None:
    with Caller(mutual, Authority(tmp_path)) as caller:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            caller.http.get("/livez")
        with pytest.raises(grpc.RpcError):
            caller.rpc()


def test_old_tls_and_no_tls_are_refused(mutual: RunningServer, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=str(authority.file))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    for door in ("rest", "grpc"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            serial(mutual, door, context)
    with pytest.raises(httpx.TransportError):
        httpx.get(mutual.rest.replace("https", "http") + "/livez", trust_env=False)
    with grpc.insecure_channel(mutual.grpc) as channel:
        agents: Any = pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError):
            agents.Act(ACT, timeout=5)


def test_every_broken_file_is_named_with_its_fix(tmp_path: Path, authority: Authority) -> None:
    good, other = authority.issue("good"), authority.issue("another")
    late = authority.issue("late", NOW - DAY)
    early = authority.issue("early", NOW + DAY, NOW + DAY / 2)
    good.certificate.write_bytes("# of übung\n".encode() + good.certificate.read_bytes())
    junk = tmp_path / "junk"
    junk.write_text("junk")
    for given, words in (
        ({"tls_certificate": good.certificate}, "tls_key: missing"),
        ({"tls_key": good.key}, "tls_certificate: missing"),
        ({"client_ca": authority.file}, "over TLS only"),
        (settings_of(Files(tmp_path / "none", good.key)), "cannot be read"),
        (settings_of(Files(good.certificate, other.key)), "is not the key of"),
        (settings_of(Files(junk, good.key)), "are not a PEM certificate"),
        (settings_of(Files(good.certificate, junk)), "are not a PEM certificate"),
        (settings_of(late), "has expired"),
        (settings_of(early), "is not valid yet"),
        (settings_of(good, client_ca=junk), "junk holds no PEM"),
    ):
        with pytest.raises(SetupError) as caught:
            open_tls(Settings(**given))
        assert words in str(caught.value)
        assert caught.value.fix
    tls = open_tls(Settings(**settings_of(good)))
    assert tls is not None
    assert tls.watched.value.not_after == pytest.approx((NOW + DAY).timestamp(), abs=1)
    assert open_tls(Settings()) is None


def test_an_encrypted_key_is_named(tmp_path: Path, authority: Authority) -> None:
    good = authority.issue("locked")
    key = serialization.load_pem_private_key(good.key.read_bytes(), None)
    good.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(SetupError, match="is encrypted"):
        open_tls(Settings(**settings_of(good)))
