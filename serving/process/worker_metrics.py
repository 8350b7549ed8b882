"""One page of metrics for all workers.

Counters and histograms are sums, those of processes that have died included: before a worker's
numbers are shown to anybody it writes its counts to a file, and the process that gets its number
next goes on counting from there. So no sum that was ever shown goes down, which Prometheus would
take for a restart and count twice. Gauges are sums, or what `_GAUGES` says, over the workers that
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from serving.metrics import Metrics
from serving.process.restarts import read_restarts

_COUNTS = frozenset({"counter", "histogram"})
_GAUGES: dict[str, Callable[[float, float], float]] = {
    "unmix_model": max,
    "unmix_models_refused": max,  # all of them look into the same folder
    "unmix_certificate_expiry_timestamp_seconds": min,
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "python_info": max,
}
"""How a gauge that is no sum is made of two workers'."""


class Family(msgspec.Struct, array_like=True):
    """A metric's samples, on their way from worker to worker."""

    name: str
    documentation: str
    type: str
    samples: list[tuple[str, dict[str, str], float]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Family]).decode


class WorkerMetrics:
    """One worker's part of the page.

    Args:
        folder: the workers' own; counts are kept in it.
    """

    def __init__(self, metrics: Metrics, folder: Path, number: int) -> None:
        self._metrics, self._folder, self._number = metrics, folder, number
        self._before = _read(_path(folder, number))

    def snapshot(self) -> bytes:
        """This worker's numbers, for `page`; from now on its counts outlive it."""
        families = merge([[_family(it) for it in self._metrics.families()], self._before])
        path = _path(self._folder, self._number)
        aside = path.with_suffix(".new")
        aside.write_bytes(_encode([it for it in families if it.type in _COUNTS]))
        aside.replace(path)
        return _encode(families)

    def page(self, snapshots: dict[int, bytes], n_workers: int, accept: str) -> tuple[bytes, str]:
        """(body, content type) of what these workers said, and what the others had counted."""
        parts = [
            _decode(snapshots[number])
            if number in snapshots
            else _read(_path(self._folder, number))
            for number in range(1, n_workers + 1)
        ]
        workers = GaugeMetricFamily(
            "unmix_workers", "Processes that serve behind these ports.", len(snapshots)
        )
        restarts = CounterMetricFamily(
            "unmix_worker_restarts", "Workers that died and were replaced.",
            read_restarts(self._folder),
        )  # fmt: skip
        encode, content_type = choose_encoder(accept)
        page = _Page([*map(_metric, merge(parts)), workers, restarts])
        return encode(page), content_type


def merge(parts: Iterable[list[Family]]) -> list[Family]:
    """Several workers' families as one's."""
    merged: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in (it for part in parts for it in part):
        merged.setdefault(family.name, family)
        summed = family.type in _COUNTS or family.name not in _GAUGES
        add = float.__add__ if summed else _GAUGES[family.name]
        seen = values.setdefault(family.name, {})
        for name, labels, value in family.samples:
            key = name, tuple(labels.items())
            seen[key] = add(seen[key], value) if key in seen else value
    return [
        Family(
            it.name,
            it.documentation,
            it.type,
            [(name, dict(labels), value) for (name, labels), value in values[it.name].items()],
        )
        for it in merged.values()
    ]


class _Page(Collector):
    """What prometheus_client's encoders take for a registry."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number}.counts"


def _read(path: Path) -> list[Family]:
    return _decode(path.read_bytes()) if path.exists() else []


def _family(metric: Metric) -> Family:
    samples = [(it.name, it.labels, float(it.value)) for it in metric.samples]
    return Family(metric.name, metric.documentation, metric.type, samples)


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.documentation, family.type)
    for name, labels, value in family.samples:
        metric.add_sample(name, labels, value)
    return metric
