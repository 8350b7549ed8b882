"""Spans of real steps, as a collector receives them."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc
from tests.serving.running import RunningServer

OBS = np.linspace(-1, 1, 7, dtype="<f4")
MASK = np.array([False, True, True, False, True])
BODY = {"obs": OBS.tolist(), "avail_actions": MASK.tolist()}
ACT = pb.ActRequest(obs=OBS.tobytes(), avail_actions=MASK.tobytes())
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.received: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self.received.put(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> Iterator[Any]:
        while not self.received.empty():
            for resource in self.received.get().resource_spans:
                names = {it.key: it.value.string_value for it in resource.resource.attributes}
                assert names["service.name"] == "unmix"
                for scope in resource.scope_spans:
                    yield from scope.spans


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = grpc.server(ThreadPoolExecutor(1))
    made = Collector()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield made
    server.stop(None).wait()


def attributes(span: Any) -> dict[str, Any]:
    return {it.key: it.value.string_value or it.value.int_value for it in span.attributes}


def test_every_step_has_a_span_under_its_callers_trace(models: Path, collector: Collector) -> None:
    named = {"traceparent": PARENT, "x-request-id": "seven"}
    with RunningServer(models, {"traces": "otlp"}) as server:
        with httpx.Client(base_url=server.rest, trust_env=False) as http:
            http.post("/agents/0/act", json=BODY, headers=named)
            http.post("/agents/0/act", json=BODY, headers={"traceparent": "PLANTED"})
            http.post("/agents/9/act", json=BODY)
            http.get("/models")
        with grpc.insecure_channel(server.grpc) as channel:
            agents: Any = pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
            agents.Act(ACT, metadata=tuple(named.items()))
            step = pb.ActStreamRequest(obs=ACT.obs, avail_actions=ACT.avail_actions)
            steps = [pb.ActStreamRequest(begin=pb.Episode()), step, step]
            assert len(list(agents.ActStream(iter(steps), metadata=tuple(named.items())))) == 3
    # The server is gone: whatever it had to send has been sent.
    spans = list(collector.spans())
    assert {span.name for span in spans} == {"act"}
    ours = [span for span in spans if span.trace_id.hex() == TRACE]
    assert {span.parent_span_id.hex() for span in ours} == {"b7ad6b7169203331"}
    ok = {
        "unmix.request_id": "seven",
        "unmix.code": "ok",
        "unmix.model": "tiny",
        "unmix.version": 1,
    }
    doors = ("rest", "grpc_unary", "grpc_stream", "grpc_stream")
    assert [attributes(span) for span in ours] == [ok | {"unmix.door": door} for door in doors]
    alone, failed = (span for span in spans if span.trace_id.hex() != TRACE)
    assert alone.parent_span_id == failed.parent_span_id == b""
    assert attributes(failed)["unmix.code"] == "agent_not_found"
    assert (alone.status.code, failed.status.code) == (0, 2)
    assert not any(span.events for span in spans)
    assert "PLANTED" not in str(spans)


def test_a_collector_that_is_not_there_holds_nobody_up(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with RunningServer(models, {"traces": "otlp"}) as server:
        answer = httpx.post(server.rest + "/agents/0/act", json=BODY, trust_env=False)
        assert answer.status_code == 200
        server.terminate()
        assert server.process.wait(8) == 0


def test_nothing_is_traced_unless_asked_for(models: Path, collector: Collector) -> None:
    with RunningServer(models) as server:
        httpx.post(server.rest + "/agents/0/act", json=BODY, trust_env=False)
    assert list(collector.spans()) == []
