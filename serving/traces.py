"""OpenTelemetry spans, one a step or message, under the caller's own trace if it names one.

Off unless `traces` says otherwise, and then not even imported. Where spans go and which are kept is
told by OpenTelemetry's own environment variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER
and so on). A span holds the attributes in `_span` and nothing that a step was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from serving.metrics import Door, error_code
from serving.models.agent_model import AgentModel, StepResult
from serving.request_ids import request_id, traceparent
from serving.settings import SetupError
from serving.steps.service import Act, AgentService, Episode, Step

SERVICE_NAME = "unmix"


class TracedService(AgentService):
    """The service, with a span around each step. Raises: SetupError"""

    def __init__(self, *args: Any) -> None:
        self._otel = _Otel()
        super().__init__(*args)

    async def act(
        self, request: Act, door: Door, *args: Any, **kwargs: Any
    ) -> tuple[AgentModel, StepResult]:
        with self._span(door) as span:
            model, result = await super().act(request, door, *args, **kwargs)
            _name_model(span, model)
        return model, result

    async def step(
        self,
        episode: Episode,
        obs: bytes,
        avail_actions: bytes,
        door: Door,
        *args: Any,
        **kwargs: Any,
    ) -> StepResult:
        with self._span(door) as span:
            _name_model(span, episode.model)
            return await super().step(episode, obs, avail_actions, door, *args, **kwargs)

    async def act_many(
        self, requests: Sequence[Act], door: Door, *args: Any, **kwargs: Any
    ) -> tuple[AgentModel, list[StepResult]]:
        with self._span(door) as span:
            model, results = await super().act_many(requests, door, *args, **kwargs)
            _name_model(span, model)
        return model, results

    async def step_many(
        self, steps: Sequence[Step], door: Door, *args: Any, **kwargs: Any
    ) -> list[StepResult]:
        with self._span(door):
            return await super().step_many(steps, door, *args, **kwargs)

    def end_traces(self) -> None:
        """Send what has not been sent, for as long as OTEL_EXPORTER_OTLP_TIMEOUT lets it."""
        self._otel.provider.shutdown()

    @contextmanager
    def _span(self, door: Door) -> Iterator[Any]:
        span = self._otel.start({"unmix.door": door, "unmix.request_id": request_id.get()})
        try:
            yield span
        except BaseException as error:
            span.set_attribute("unmix.code", error_code(error))
            span.set_status(self._otel.error)
            raise
        else:
            span.set_attribute("unmix.code", "ok")
        finally:
            span.end()


class _Otel:
    """What is used of the library, which only those who trace have. Raises: SetupError"""

    def __init__(self) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, StatusCode
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise SetupError(
                "traces: OpenTelemetry is not installed", "pip install 'unmix[otel]'"
            ) from None
        resource = Resource.create({"service.name": SERVICE_NAME})
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.error, self._kind = StatusCode.ERROR, SpanKind.SERVER
        self._tracer = self.provider.get_tracer(SERVICE_NAME)
        self._extract = TraceContextTextMapPropagator().extract

    def start(self, attributes: dict[str, Any]) -> Any:
        parent = self._extract({"traceparent": traceparent.get()})
        return self._tracer.start_span("act", parent, self._kind, attributes)


def _name_model(span: Any, model: AgentModel) -> None:
    span.set_attribute("unmix.model", model.name)
    span.set_attribute("unmix.version", model.version)
