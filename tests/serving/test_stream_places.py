"""How many units the streams of one client may hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.access.entry import Principal, principal
from serving.errors import Overloaded
from serving.metrics import Metrics
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.rpc.stream_places import StreamPlaces, client_of
from tests.serving.running import RunningServer
from tests.serving.test_grpc_api import Stream, refused, step, stub

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
def agents(models: Path, front: str) -> Iterator[Any]:
    """Of a server where one client's streams may hold three units."""
    settings = {"front": front, "max_client_streams": 3}
    with (
        RunningServer(models, settings) as running,
        grpc.insecure_channel(running.grpc) as channel,
    ):
        yield stub(channel)


def test_one_client_cannot_take_all_streams(agents: Any) -> None:
    streams = [Stream(agents) for _ in range(3)]
    for stream in streams:
        stream(step(begin=pb.Episode()))
    text, details = refused(lambda: Stream(agents)(step(begin=pb.Episode())), FULL)
    assert text == "your streams hold 3 units; the limit for one client is 3"
    assert details["ErrorInfo"].reason == "OVERLOADED"
    assert details["RetryInfo"].retry_delay.seconds == 1
    assert streams[0].end() == grpc.StatusCode.OK
    another = Stream(agents)  # in the place that is free now
    another(step(begin=pb.Episode()))
    for stream in (*streams[1:], another):
        assert stream.end() == grpc.StatusCode.OK


def test_units_of_a_team_count_each(agents: Any) -> None:
    def begin(n: int) -> pb.TeamStreamRequest:
        return pb.TeamStreamRequest(begin=pb.TeamBegin(units=range(n), agent_ids=[0] * n))

    too_many, three, _ = agents.TeamStream(iter([begin(4), begin(3), begin(3)]), timeout=20)
    assert too_many.fault.reason == "OVERLOADED"
    assert too_many.fault.message == "your streams hold 1 units; the limit for one client is 3"
    assert too_many.fault.retry_after_s == 1
    assert three.model == "tiny"


def test_places_are_counted_by_client_and_in_all() -> None:
    metrics = Metrics()
    places = StreamPlaces(metrics, cap=5, client_cap=3)
    places.take("a", 3)
    places.take("a", 0)
    places.take("b", 2)
    for client, n in (("a", 1), ("b", 1), ("c", 1)):
        with pytest.raises(Overloaded):
            places.take(client, n)
    places.give_back("a", 2)
    places.take("b", 1)
    with pytest.raises(Overloaded, match="one client is 3"):
        places.take("b", 1)
    assert metrics.n_streams == 4


def test_a_client_is_a_credential_or_an_address() -> None:
    nobody = principal.set(None)
    assert client_of("ipv4:10.0.0.7:5123") == client_of("ipv4:10.0.0.7:9999")
    assert client_of("ipv6:[::1]:5123") == "ipv6:[::1]"
    known = principal.set(Principal("key:trainer", frozenset({"act"}), None))
    try:
        assert client_of("ipv4:10.0.0.7:5123") == "key:trainer"
    finally:
        principal.reset(known)
        principal.reset(nobody)
