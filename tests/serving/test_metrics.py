"""Metrics: plain numbers in, Prometheus' text out, names and units by its conventions."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from serving import errors
from serving.metrics import Histogram, Metrics, ModelMetrics, error_code
from serving.models.agent_model import AgentModel


@pytest.fixture
def metrics(model: AgentModel) -> Metrics:
    made = Metrics()
    made.requests["rest", "ok"] += 3
    made.requests["grpc_unary", "invalid_request"] += 1
    for seconds in (0.0002, 0.00025, 0.003, 9.0):
        made.seconds["rest"].observe(seconds)
    entry = ModelMetrics(model, queued=lambda: 5)
    entry.rows.observe(1)
    entry.rows.observe(64)
    made.models.append(entry)
    made.n_sessions = lambda: 7
    made.not_after = lambda: 2e9
    return made


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition("text/plain")[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def test_what_was_counted_is_shown(metrics: Metrics) -> None:
    shown = samples(metrics)
    model = (("model", "tiny"), ("version", "1"))
    assert shown["unmix_requests_total", (("code", "ok"), ("door", "rest"))] == 3
    labels = (("code", "invalid_request"), ("door", "grpc_unary"))
    assert shown["unmix_requests_total", labels] == 1
    # A bucket counts what is at most its bound: 0.2 and 0.25 ms, then 3 ms, then 9 s.
    for bound, count in (("0.00025", 2), ("0.0025", 2), ("0.005", 3), ("1.0", 3), ("+Inf", 4)):
        labels = (("door", "rest"), ("le", bound))
        assert shown["unmix_step_duration_seconds_bucket", labels] == count
    assert shown["unmix_step_duration_seconds_sum", (("door", "rest"),)] == pytest.approx(9.00345)
    assert shown["unmix_batch_rows_sum", model] == 65
    assert shown["unmix_batch_rows_count", model] == 2
    assert shown["unmix_queue_rows", model] == 5
    assert shown["unmix_sessions", ()] == 7
    assert shown["unmix_certificate_expiry_timestamp_seconds", ()] == 2e9
    assert shown["process_resident_memory_bytes", ()] > 0
    info = {labels for name, labels in shown if name == "unmix_model_info"}
    assert len(info) == 1
    assert {("map", "3s5z"), ("provider", "CPUExecutionProvider")} < set(info.pop())


def test_both_formats_parse_and_every_name_has_its_unit(metrics: Metrics) -> None:
    body, content_type = metrics.exposition("application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    parsed = parse_open(body.decode())  # type: ignore[no-untyped-call]
    families = [family for family in parsed if family.name.startswith("unmix")]
    assert {family.name for family in families} == {
        "unmix_requests",
        "unmix_step_duration_seconds",
        "unmix_model",
        "unmix_queue_rows",
        "unmix_batch_rows",
        "unmix_run_duration_seconds",
        "unmix_models_refused",
        "unmix_sessions",
        "unmix_streams",
        "unmix_certificate_expiry_timestamp_seconds",
    }
    assert all(family.documentation for family in families)


def test_names_and_labels_follow_the_conventions(metrics: Metrics) -> None:
    """Lower case, base units, `_total` for counters alone; labels from a closed set."""
    text = metrics.exposition("text/plain")[0].decode()
    families = [family for family in parse_text(text) if family.name.startswith("unmix")]
    labels = {"door", "code", "model", "version", "le", "map", "algorithm", "provider"}
    assert len(families) == 10
    for family in families:
        assert re.fullmatch(r"unmix(_[a-z]+)+", family.name)
        assert not re.search(r"_(ms|millis|milliseconds|us|mb|kb|percent|count|sum)$", family.name)
        assert family.type in {"counter", "gauge", "histogram"}
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert set(sample.labels) <= labels
            if "duration" in sample.name or "timestamp" in sample.name:
                assert "_seconds" in sample.name


def test_promtool_has_no_objection(metrics: Metrics) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    text, _ = metrics.exposition("text/plain")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_error_codes_are_the_class_names() -> None:
    assert error_code(errors.InvalidRequest) == "invalid_request"
    assert error_code(errors.ModelNotFound("")) == "model_not_found"
    assert error_code(KeyError()) == "internal"


def test_a_histogram_is_empty_at_first() -> None:
    metrics = Metrics()
    metrics.seconds["rest"] = Histogram((1.0,))
    assert samples(metrics)["unmix_step_duration_seconds_count", (("door", "rest"),)] == 0
