"""What operators see: a real Prometheus asks a service under load, and the dashboard's queries and
the alerts' are put to it. There is no Grafana to be had here: its JSON is checked by structure."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.containers.monitored import SETTINGS, Prometheus, load
from tests.serving.running import RunningServer
from tests.venvs import ROOT

DEPLOY = ROOT / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/unmix.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
SOURCE = {"type": "prometheus", "uid": "unmix-prometheus"}
WITH_TLS_ALONE = {"unmix_certificate_expiry_timestamp_seconds"}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    return subprocess.run(
        ["promtool", *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Prometheus]:
    """Has asked a service under load twice, and goes on."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian package prometheus)")
    with RunningServer(models, SETTINGS) as server, load(server) as answers:
        running = Prometheus(
            tmp_path_factory.mktemp("prometheus"), [server.rest.removeprefix("http://")]
        )
        try:
            running.wait_for('sum(count_over_time(up{job="unmix"}[1m]))', 2)
            assert {200, 429} == set(answers), answers  # else there is little to see
            yield running
        finally:
            running.close()


def in_prometheus(query: str) -> str:
    """As Grafana sends it: all services, and four times between two scrapes."""
    return query.replace("$instance", ".+").replace("$__rate_interval", "20s")


def metrics(queries: list[str]) -> set[str]:
    """The names of metrics in queries."""
    text = re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", " ".join(queries))
    return set(re.findall(r"\b(?:unmix|process)_\w+|\bup\b", text))


def test_every_query_of_the_dashboard_has_an_answer(prometheus: Prometheus) -> None:
    assert len(QUERIES) >= 20
    empty = {}
    for query in QUERIES:
        values = prometheus.ask(in_prometheus(query))
        if not any(math.isfinite(value) for value in values):
            empty[query] = values
    assert empty == {}


def test_the_answers_are_those_of_the_load(prometheus: Prometheus) -> None:
    doors = "count(sum by (door) (rate(unmix_requests_total[20s])) > 0)"
    assert prometheus.ask(doors) == [5]  # rest, rest_team, grpc_unary, grpc_stream, grpc_team
    assert sum(prometheus.ask('rate(unmix_requests_total{code="overloaded"}[20s])')) > 0
    assert prometheus.ask("unmix_streams") == [2]  # the stream's unit and the team's
    assert prometheus.ask("unmix_sessions") == [1]
    [rows] = prometheus.ask(
        "sum(rate(unmix_batch_rows_sum[20s])) / sum(rate(unmix_batch_rows_count[20s]))"
    )
    assert 1 <= rows <= SETTINGS["max_queue"]


def test_only_what_is_wrong_alerts(prometheus: Prometheus) -> None:
    states = prometheus.rules()
    assert len(states) == 10
    # Bursts that the queue does not take; and slow, maybe, where the machine has other work.
    assert {name for name, state in states.items() if state != "inactive"} <= {
        "UnmixSheds",
        "UnmixSlow",
    }
    prometheus.wait_for('ALERTS{alertname="UnmixSheds"}', 1)


def test_every_metric_that_is_asked_for_exists(server: RunningServer) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    asked = metrics(QUERIES + [rule["expr"] for rule in rules])
    assert len(asked) > 12
    shown = httpx.get(f"{server.rest}/metrics", trust_env=False).text
    missing = {name for name in asked if f"\n{name}{{" not in shown and f"\n{name} " not in shown}
    assert missing - {"unmix_requests_total"} == WITH_TLS_ALONE | {"up"}


def test_promtool_has_no_objection_to_the_configuration() -> None:
    assert promtool("check", "config", "prometheus.yml").returncode == 0
    # Its secrets are not here.
    checked = promtool("check", "config", "--syntax-only", "prometheus.tls.yml")
    assert checked.returncode == 0, checked.stdout


def test_alerts_fire_when_they_should() -> None:
    tested = promtool("test", "rules", "alerts_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    cases = (DEPLOY / "prometheus/alerts_test.yml").read_text()
    for rule in rules:
        fired = rf"alertname: {rule['alert']}\n\s+exp_alerts:"
        assert re.search(fired, cases), f"{rule['alert']} is never seen to fire"


def test_the_dashboard_finds_its_data() -> None:
    provisioned = DEPLOY / "grafana/provisioning"
    [source] = yaml.safe_load((provisioned / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert {"type": source["type"], "uid": source["uid"]} == SOURCE
    used = [panel["datasource"] for panel in PANELS]
    used += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    used += [variable["datasource"] for variable in DASHBOARD["templating"]["list"]]
    assert all(one == SOURCE for one in used)
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraped["scrape_interval"]


def test_every_panel_says_what_it_shows_and_has_its_place() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert '"$instance"' in panel["targets"][0]["expr"]
