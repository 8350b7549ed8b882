"""The gRPC door seen by a client that shares no code with grpcio (`grpc_client.c`), and what
grpcio's client makes of the same calls."""

from __future__ import annotations

import base64
import gzip
import shutil
import struct
import subprocess
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from google.rpc import status_pb2

from serving.pb.unmix.v1 import agent_service_pb2 as pb
from tests.serving.running import RunningServer
from tests.serving.test_grpc_api import HIDDEN, MASK, OBS

SOURCE = Path(__file__).with_name("grpc_client.c")
ACT, STREAM = "/unmix.v1.AgentService/Act", "/unmix.v1.AgentService/ActStream"
CANCEL = 8
"""HTTP/2's error code."""


class Seen(NamedTuple):
    """What the client printed."""

    headers: dict[str, str]
    messages: list[bytes]
    trailers: dict[str, str]
    closed: int | None
    ponged: bool


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None or not any(
        Path(folder, "nghttp2/nghttp2.h").exists()
        for folder in ("/usr/include", "/usr/local/include")
    ):
        pytest.skip("apt-get install gcc libc6-dev libnghttp2-dev")
    built = tmp_path_factory.mktemp("client") / "grpc_client"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", "-O1", *warnings, "-o", built, SOURCE, "-lnghttp2"], check=True)
    return built


@pytest.fixture
def wire(binary: Path, server: RunningServer) -> Any:
    host, port = server.grpc.split(":")

    def call(path: str, *messages: bytes, options: tuple[str, ...] = ()) -> Seen:
        command = [str(binary), *options, host, port, path]
        ended = subprocess.run(
            command, input=b"".join(messages), capture_output=True, timeout=30, check=False
        )
        assert ended.returncode == 0, (ended.returncode, ended.stdout)
        lines = [line.split(" ", 2) for line in ended.stdout.decode().splitlines()]
        return Seen(
            {line[1]: line[2] for line in lines if line[0] == "header"},
            [bytes.fromhex(line[1]) for line in lines if line[0] == "message"],
            {line[1]: line[2] for line in lines if line[0] == "trailer"},
            next((int(line[1]) for line in lines if line[0] == "closed"), None),
            ["pong"] in lines,
        )

    return call


def framed(message: pb.ActRequest | pb.ActStreamRequest) -> bytes:
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


def squeezed(data: bytes) -> bytes:
    return struct.pack(">BI", 1, len(data)) + data


REQUEST = pb.ActRequest(obs=OBS, avail_actions=MASK)
STEP = pb.ActStreamRequest(obs=OBS, avail_actions=MASK)
BEGIN = pb.ActStreamRequest(obs=OBS, avail_actions=MASK, begin=pb.Episode())
ONE, FIRST, NEXT = framed(REQUEST), framed(BEGIN), framed(STEP)


def test_a_unary_call_is_headers_a_message_and_trailers(wire: Any, channel: grpc.Channel) -> None:
    seen = wire(ACT, ONE, options=("-h", "x-request-id=mine", "-p"))
    assert seen.headers[":status"] == "200"
    assert seen.headers["content-type"] == "application/grpc"
    call: Any = channel.unary_unary(ACT)
    answer, twin = call.with_call(REQUEST.SerializeToString(), metadata=[("x-request-id", "mine")])
    assert seen.messages == [answer]
    assert pb.ActResponse.FromString(answer).model == "tiny"
    assert (seen.trailers["grpc-status"], seen.closed, seen.ponged) == ("0", 0, True)
    assert seen.trailers["x-request-id"] == dict(twin.trailing_metadata())["x-request-id"] == "mine"


def test_a_refusal_is_trailers_alone_with_the_same_details(
    wire: Any, channel: grpc.Channel
) -> None:
    bad = pb.ActRequest(obs=OBS, avail_actions=MASK, hidden=HIDDEN)
    seen = wire(ACT, framed(bad), options=("-p",))
    assert (seen.headers, seen.messages, seen.closed, seen.ponged) == ({}, [], 0, True)
    call: Any = channel.unary_unary(ACT)
    with pytest.raises(grpc.RpcError) as caught:
        call(bad.SerializeToString())
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert seen.trailers[":status"] == "200"
    assert seen.trailers["grpc-status"] == "3"
    assert seen.trailers["grpc-message"] == error.details()
    packed = seen.trailers["grpc-status-details-bin"]
    details = base64.b64decode(packed + "=" * (-len(packed) % 4))
    assert details == dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert status_pb2.Status.FromString(details).message == error.details()


@pytest.mark.parametrize("options", [("-p",), ("-a", "-p")])
def test_a_stream_answers_each_message_and_ends_when_its_caller_does(
    wire: Any, channel: grpc.Channel, options: tuple[str, ...]
) -> None:
    seen = wire(STREAM, FIRST, NEXT, NEXT, options=options)
    call: Any = channel.stream_stream(STREAM)
    messages = [message.SerializeToString() for message in (BEGIN, STEP, STEP)]
    assert seen.messages == list(call(iter(messages), timeout=20))
    assert (seen.trailers["grpc-status"], seen.closed, seen.ponged) == ("0", 0, True)


@pytest.mark.parametrize(
    ("options", "body", "messages", "status", "text"),
    [
        (("-o", "-t", "300m"), FIRST, 1, "4", "Deadline Exceeded"),
        (("-o", "-t", "0n"), FIRST, 0, "4", ""),  # by gRPC or by the service, whoever is first
        (("-o", "-t", "1"), FIRST, 0, "13", "grpc-timeout"),
        (("-o",), FIRST + struct.pack(">BI", 0, 0), 1, "3", "obs has 0 values"),
        ((), FIRST + struct.pack(">BI", 0, 2) + b"\xff\xff", 1, "3", "the message is not a unmix"),
        (("-o",), FIRST + struct.pack(">BI", 0, 2**24) + b"x", 1, "8", "message"),
        ((), b"", 0, "0", ""),
    ],
    ids=["late", "at once", "no time", "refused", "malformed", "too large", "empty"],
)
def test_how_a_stream_may_end(
    wire: Any, options: tuple[str, ...], body: bytes, messages: int, status: str, text: str
) -> None:
    seen = wire(STREAM, body, options=(*options, "-p"))
    assert len(seen.messages) == messages
    assert seen.trailers["grpc-status"] == status
    assert text in seen.trailers.get("grpc-message", "")
    assert (seen.closed, seen.ponged) == (0, True)


def test_an_unknown_method_is_unimplemented(wire: Any) -> None:
    assert wire("/unmix.v1.AgentService/Nothing", ONE).trailers["grpc-status"] == "12"
    assert wire("/nothing", ONE).trailers["grpc-status"] == "12"


@pytest.mark.parametrize(
    ("path", "body", "options"),
    [
        (ACT, ONE, ("-r", "0")),
        (STREAM, FIRST, ("-o", "-r", "0")),
        (STREAM, FIRST, ("-o", "-r", "1")),
    ],
)
def test_a_call_may_be_cancelled_and_the_connection_stays(
    wire: Any, path: str, body: bytes, options: tuple[str, ...], http: httpx.Client
) -> None:
    seen = wire(path, body, options=(*options, "-p"))
    assert (seen.closed, seen.ponged) == (CANCEL, True)
    assert "grpc-status" not in seen.trailers
    deadline = time.monotonic() + 5  # by then its place is free again
    while "unmix_streams 0.0\n" not in http.get("/metrics").text:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("encoding", "data", "status"),
    [
        ("gzip", gzip.compress(REQUEST.SerializeToString(), mtime=0), "0"),
        ("deflate", zlib.compress(REQUEST.SerializeToString()), "0"),
        ("gzip", b"junk", "13"),
        ("gzip", gzip.compress(REQUEST.SerializeToString(), mtime=0)[:-9], "13"),
        ("gzip", gzip.compress(bytes(2 << 20), mtime=0), "8"),
        ("br", b"junk", "12 or 13"),  # grpcio does not tell it from junk
        ("identity", b"junk", "13"),
    ],
)
def test_compressed_messages_are_read_up_to_the_limit(
    wire: Any, encoding: str, data: bytes, status: str
) -> None:
    seen = wire(ACT, squeezed(data), options=("-h", f"grpc-encoding={encoding}"))
    assert seen.trailers["grpc-status"] in status.split(" or ")
    assert len(seen.messages) == (status == "0")
