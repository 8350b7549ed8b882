"""docker-compose.yml: by the Compose schema, and by what it promises. No engine runs it here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.settings import Settings
from tests.containers.dockerfile import parse
from tests.venvs import ROOT

FILES = ["docker-compose.yml", "deploy/compose.tls.yml"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / FILES[0]).read_text())
TLS: dict[str, Any] = yaml.safe_load((ROOT / FILES[1]).read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ["serving", "serving-gpu", "replica-1"]
each_service = pytest.mark.parametrize("name", SERVICES)


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_schema_has_no_objection() -> None:
    checker = str(Path(sys.executable).parent / "check-jsonschema")
    command = [checker, "--builtin-schema", "vendor.compose-spec", *FILES]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_service_alone_runs_unless_more_is_asked_for() -> None:
    assert {name: service.get("profiles") for name, service in SERVICES.items()} == {
        "serving": None,
        "serving-gpu": ["gpu"],
        "replica-1": ["replicas"],
        "replica-2": ["replicas"],
        "replica-3": ["replicas"],
        "haproxy": ["replicas"],
        "training": ["training"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
        "load": ["load"],
    }


@each_service
def test_a_container_may_do_no_more_than_it_has_to(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service)
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] > 0
    assert service["tmpfs"][0].startswith("/tmp:size=")
    for volume in service.get("volumes", ()):
        source, mode = volume.split(":")[0], volume.split(":")[-1]
        # From the repository they only read.
        assert not source.startswith(".") or (mode == "ro" and (ROOT / source).is_dir())


@each_service
def test_a_container_is_looked_after(name: str) -> None:
    service = SERVICES[name]
    assert seconds(service["stop_grace_period"]) >= 20
    if name == "training":  # ends by itself, and listens nowhere
        assert service["healthcheck"] == {"disable": True}
        assert service["restart"] == "no"
    else:
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"


@each_service
def test_an_image_has_a_version(name: str) -> None:
    tag = SERVICES[name]["image"].rpartition(":")[2]
    assert re.match(r"v?\d+\.\d+", tag)


@each_service
def test_ports_are_this_machines_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith(("127.0.0.1:", "${UNMIX_PUBLISH:-127.0.0.1}:"))


def test_no_two_containers_want_one_port() -> None:
    ports = [port.split(":")[-2] for it in SERVICES.values() for port in it.get("ports", ())]
    assert len(set(ports)) == len(ports) == 9


def test_what_is_built_is_a_stage_of_the_dockerfile() -> None:
    stages = {stage.name for stage in parse((ROOT / "Dockerfile").read_text())[1]}
    built = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    assert built == {"serving", "gpu", "training", "load"} < stages


def test_haproxy_is_told_of_every_replica() -> None:
    told = SERVICES["haproxy"]["environment"]
    config = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    assert set(told) == set(re.findall(r"\$\{(UNMIX_\w+)-", config))
    for number, name in enumerate(("ONE", "TWO", "THREE"), 1):
        assert told[f"UNMIX_{name}_REST"] == f"replica-{number}:8000"
        assert told[f"UNMIX_{name}_GRPC"] == f"replica-{number}:50051"
        assert told[f"UNMIX_{name}_PORT"] == "8000"


@pytest.mark.parametrize("name", OURS)
def test_settings_are_the_services_and_its_grace_is_waited_for(name: str) -> None:
    given = dict(SERVICES[name]["environment"])
    fields = {f"UNMIX_{field.upper()}": field for field in Settings.model_fields}
    assert set(given) <= set(fields)
    settings = Settings(**{fields[variable]: value for variable, value in given.items()})
    assert settings.insecure
    grace = seconds(SERVICES[name]["stop_grace_period"])
    assert grace > settings.drain_delay_s + settings.grace_s


def test_the_variant_for_other_machines_is_closed() -> None:
    given = SERVICES["serving"]["environment"] | TLS["services"]["serving"]["environment"]
    fields = {f"UNMIX_{field.upper()}": field for field in Settings.model_fields}
    settings = Settings(**{fields[variable]: value for variable, value in given.items()})
    assert not settings.insecure
    secrets = {Path("/run/secrets", name) for name in TLS["services"]["serving"]["secrets"]}
    assert {settings.tls_certificate, settings.tls_key, settings.keys} == secrets


def test_secrets_are_files_that_git_and_builds_never_see() -> None:
    secrets = COMPOSE["secrets"] | TLS["secrets"]
    assert all(it["file"].startswith("./deploy/secrets/") for it in secrets.values())
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    used = [name for part in (COMPOSE, TLS) for it in part["services"].values()
            for name in it.get("secrets", ())]  # fmt: skip
    assert set(used) == set(secrets)
