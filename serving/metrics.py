"""What the service counts, and how Prometheus reads it.

The hot path adds to plain numbers; Prometheus' own objects are built when somebody scrapes. Names
and units follow Prometheus' conventions. Label values come from closed sets: doors, error codes,
and the models loaded; never what a caller sent.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from serving.errors import ServingError
from serving.models.agent_model import AgentModel

Door = Literal["rest", "rest_team", "grpc_unary", "grpc_stream", "grpc_team", "rest_v2", "grpc_v2"]

SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


def error_code(error: BaseException | type[BaseException]) -> str:
    """How metrics and logs name an error: `invalid_request` for InvalidRequest."""
    kind = error if isinstance(error, type) else type(error)
    if not issubclass(kind, ServingError):
        return "internal"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


class Histogram:
    """Counts by bucket, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        total, buckets = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(labels, buckets, self._sum)


class ModelMetrics:
    """One model version's numbers."""

    __slots__ = ("model", "queued", "rows", "seconds")

    def __init__(self, model: AgentModel, queued: Callable[[], int]) -> None:
        self.model = model
        self.queued = queued
        self.rows = Histogram(ROWS)
        """Rows of each run; its sum is the number of steps."""
        self.seconds = Histogram(SECONDS)
        """Time of each run."""


class Metrics(Collector):
    """Everything `/metrics` shows."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[Door, str]] = Counter()
        """Finished steps by door and outcome: "ok", or what `error_code` says (once for a message,
        however many rows it had)."""
        self.seconds: dict[Door, Histogram] = {door: Histogram(SECONDS) for door in get_args(Door)}
        """Time from a step's arrival in the service to its answer; once for rows that came
        together."""
        self.models: list[ModelMetrics] = []
        self.n_refused: Callable[[], int] = int
        self.n_sessions: Callable[[], int] = int
        self.n_streams = 0
        self.not_after: Callable[[], float | None] = lambda: None
        """When the server's certificate expires, in seconds since the epoch; None without TLS."""
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(self)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) in the format that the scraper asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def families(self) -> Iterable[Metric]:
        """What `exposition` writes."""
        return self._registry.collect()

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "unmix_requests", "Steps asked for, by outcome.", labels=["door", "code"]
        )
        for (door, code), count in sorted(self.requests.items()):
            requests.add_metric([door, code], count)
        yield requests
        seconds = HistogramMetricFamily(
            "unmix_step_duration_seconds",
            "Time from a step's arrival to its answer.",
            labels=["door"],
        )
        for door, histogram in self.seconds.items():
            histogram.add_to(seconds, [door])
        yield seconds
        yield from self._collect_models()
        for name, text, value in (
            ("unmix_models_refused", "Model versions that were refused.", self.n_refused()),
            ("unmix_sessions", "REST sessions held.", self.n_sessions()),
            ("unmix_streams", "Units that gRPC streams hold.", self.n_streams),
        ):
            yield GaugeMetricFamily(name, text, value)
        not_after = self.not_after()
        if not_after is not None:
            yield GaugeMetricFamily(
                "unmix_certificate_expiry_timestamp_seconds",
                "When the server's certificate expires, since the epoch.",
                not_after,
            )

    def _collect_models(self) -> Iterable[Metric]:
        labels = ["model", "version"]
        info = InfoMetricFamily("unmix_model", "A loaded model version.", labels=labels)
        queued = GaugeMetricFamily("unmix_queue_rows", "Rows waiting for a run.", labels=labels)
        rows = HistogramMetricFamily(
            "unmix_batch_rows", "Rows of each run of a model.", labels=labels
        )
        run = HistogramMetricFamily(
            "unmix_run_duration_seconds", "Time of each run of a model.", labels=labels
        )
        for entry in self.models:
            manifest = entry.model.manifest
            values = [manifest.name, str(manifest.version)]
            details = {
                "map": manifest.map,
                "algorithm": manifest.algorithm,
                "provider": entry.model.provider,
            }
            info.add_metric(values, details)
            queued.add_metric(values, entry.queued())
            entry.rows.add_to(rows, values)
            entry.seconds.add_to(run, values)
        yield from (info, queued, rows, run)
