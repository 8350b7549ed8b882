"""`unmix-serve check` and `key new`: every broken set-up is told with its fix, good ones pass."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from serving.access.keys import find_key, new_key, read_keys
from serving.check import check
from serving.server import app
from serving.settings import Settings
from tests.artifacts import Policy, write_artifact
from tests.serving.certificates import DAY, NOW, Authority
from tests.serving.issuer import SETTINGS, Issuer
from tests.serving.test_server import run


class Setup:
    """Good files in a folder, for a test to break one of them."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.authority = Authority(folder)
        self.certificate, self.key = self.authority.issue("server")
        self.keys = folder / "keys"
        self.keys.write_text(new_key("unit", ["act"])[1].line())
        self.jwks = Issuer().write(folder / "jwks")
        self.folder, self.models = folder, models
        self.taken: socket.socket | None = None

    def settings(self, **changed: Any) -> Settings:
        given: dict[str, Any] = {
            "models": self.models,
            "http_port": 0,
            "grpc_port": 0,
            "host": "0.0.0.0",
            "tls_certificate": self.certificate,
            "tls_key": self.key,
            "client_ca": self.authority.file,
            "keys": self.keys,
            "jwks": self.jwks,
            "rate_per_s": 10,
            **SETTINGS,
        }
        return Settings(**(given | changed))


@pytest.fixture
def setup(tmp_path: Path, models: Path) -> Iterator[Setup]:
    made = Setup(tmp_path, models)
    yield made
    if made.taken:
        made.taken.close()


def test_a_good_set_up_passes(setup: Setup) -> None:
    memory_keys = setup.folder / "memory.keys"
    memory_keys.write_text(f"one {base64.b64encode(bytes(32)).decode()}\n")
    findings = list(check(setup.settings(memory_keys=memory_keys, admin_port=0)))
    assert all(finding.good for finding in findings), findings
    text = "\n".join(finding.line() for finding in findings)
    for words in (
        "host: 0.0.0.0",
        f"keys: {setup.keys} holds 1",
        f"jwks: {setup.jwks} holds 2",
        "fits its key, 1 days left: renew it soon",
        "http_port: any is free",
        "admin_port: any is free",
        f"memory_keys: {memory_keys} holds 1",
        "device: cpu runs models",
        "models: tiny/1 loads and repeats its golden steps on CPUExecutionProvider",
    ):
        assert words in text


def command(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


def _taken_port(setup: Setup) -> dict[str, Any]:
    setup.taken = socket.create_server(("0.0.0.0", 0))
    return {"grpc_port": setup.taken.getsockname()[1]}


def _late(setup: Setup) -> dict[str, Any]:
    late = setup.authority.issue("late", NOW - DAY)
    return {"tls_certificate": late.certificate, "tls_key": late.key}


def _broken_model(setup: Setup) -> dict[str, Any]:
    root = setup.folder / "models"
    write_artifact(root, Policy())
    (write_artifact(root, Policy(), version=2) / "model.onnx").write_bytes(b"junk")
    return {"models": root}


def _wrong_golden_rows(setup: Setup) -> dict[str, Any]:
    root = setup.folder / "models"
    file = write_artifact(root, Policy()) / "manifest.json"
    manifest = json.loads(file.read_text())
    row = manifest["golden"]["rows"][0]
    row["action"] = (row["action"] + 1) % 5
    file.write_text(json.dumps(manifest))
    return {"models": root}


def _bad_keys(setup: Setup) -> dict[str, Any]:
    setup.keys.write_text("unit act secret\n")
    return {}


def _bad_memory_keys(setup: Setup) -> dict[str, Any]:
    file = setup.folder / "memory.keys"
    file.write_text("one c2VjcmV0\n")
    return {"memory_keys": file}


def _taken_admin_port(setup: Setup) -> dict[str, Any]:
    setup.taken = socket.create_server(("127.0.0.1", 0))
    return {"admin_port": setup.taken.getsockname()[1]}


def _one_port_with_admin(_: Setup) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return {"http_port": port, "admin_port": port}


def _bad_jwks(setup: Setup) -> dict[str, Any]:
    setup.jwks.write_text('{"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}')
    return {}


BROKEN: dict[str, tuple[Callable[[Setup], dict[str, Any]], str]] = {
    "plain": (lambda _: {"tls_certificate": None, "tls_key": None, "client_ca": None},
              "host: 0.0.0.0 is reached from other machines, and TLS"),
    "anybody": (lambda _: {"keys": None, "jwks": None, "client_ca": None, "rate_per_s": 0},
                "a credential (UNMIX_KEYS, UNMIX_JWKS or UNMIX_CLIENT_CA) is not set up"),
    "no key file": (lambda s: {"keys": s.folder / "none"}, "cannot be read (No such file"),
    "bad key file": (_bad_keys, "line 1: the hash is not sha256:"),
    "bad jwks": (_bad_jwks, "neither RS256 nor ES256"),
    "no audience": (lambda _: {"jwt_audience": ""}, "UNMIX_JWT_AUDIENCE"),
    "another's key": (lambda s: {"tls_key": s.authority.issue("b").key}, "is not the key of"),
    "no certificate": (lambda s: {"tls_certificate": s.keys}, "are not a PEM certificate"),
    "late": (_late, "has expired"),
    "bad authority": (lambda s: {"client_ca": s.keys}, "keys holds no PEM"),
    "half": (lambda _: {"tls_key": None}, "tls_key: missing"),
    "taken port": (_taken_port, "cannot be listened on (Address already in use)"),
    "one port": (lambda _: {"http_port": 7, "grpc_port": 7}, "grpc_port: is that of REST"),
    "taken admin port": (_taken_admin_port, "on 127.0.0.1 cannot be listened on (Address alr"),
    "one port with admin": (_one_port_with_admin, "admin_port: is that of another door"),
    "bad memory keys": (_bad_memory_keys, "line 1: the key has 6 bytes; it takes 32"),
    "no such address": (lambda _: {"host": "192.0.2.1"}, "http_port: 0 on 192.0.2.1 cannot be"),
    "no models": (lambda s: {"models": s.folder}, "models: none in"),
    "broken model": (_broken_model, "models: tiny/2 is refused: model.onnx is not the file"),
    "other answers": (_wrong_golden_rows, "models: tiny/1 is refused: golden row 0: action"),
    "rates for nobody": (
        lambda _: {"host": "::1", "keys": None, "jwks": None, "client_ca": None},
        "rate_per_s: callers are not told apart",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_set_up_is_told_with_its_fix(setup: Setup, name: str) -> None:
    broken, words = BROKEN[name]
    faults = [
        finding.text for finding in check(setup.settings(**broken(setup))) if not finding.good
    ]
    assert len(faults) == (2 if name == "no such address" else 1)  # once for each port
    assert words in faults[0]
    assert re.search(r"\. Fix: \w", faults[0])
    assert "\n" not in faults[0]
    assert "c2VjcmV0" not in faults[0]
    assert "secret" not in faults[0]


def test_the_command_exits_0_or_1_and_tells_all_faults(models: Path, tmp_path: Path) -> None:
    ports = ("--http-port", "0", "--grpc-port", "0")
    good = run("check", "--models", str(models), *ports)
    assert (good.returncode, good.stderr) == (0, "")
    assert all(line.startswith("ok ") for line in good.stdout.splitlines())
    before = command("--models", str(models), *ports, "check")
    assert (before.exit_code, before.stdout) == (0, good.stdout)
    nowhere = ("--models", str(tmp_path), "--host", "0.0.0.0")
    bad = command("check", *nowhere, *ports, UNMIX_KEYS="none")
    faults = [line for line in bad.stdout.splitlines() if line.startswith("FAULT")]
    assert bad.exit_code == 1
    assert [line.split()[1] for line in faults] == ["host:", "keys:", "models:"]
    wrong = command("check", UNMIX_MAX_BATCH="0", UNMIX_RATE_BURST="secret")
    assert wrong.exit_code == 1
    assert wrong.stdout.count("FAULT") == 2
    assert "setting max_batch" in wrong.stdout
    assert "secret" not in wrong.stdout


def test_the_server_says_the_same_when_it_cannot_start(models: Path) -> None:
    ended = run("--models", str(models), "--host", "0.0.0.0")
    assert ended.returncode == 1
    assert "cannot start: host: 0.0.0.0 is reached from other machines" in ended.stderr
    assert "--insecure" in ended.stderr


def test_a_new_key_is_printed_once_with_its_line(tmp_path: Path) -> None:
    made = command("key", "new", "--name", "unit", "--role", "act", "--role", "observe")
    assert made.exit_code == 0
    key, line = (text.partition(": ")[2].strip() for text in made.stdout.splitlines())
    file = tmp_path / "keys"
    file.write_text(line)
    found = find_key(read_keys(file), key)
    assert found is not None
    assert found.name == "unit"
    assert found.roles == {"act", "observe"}
    for name, role in (("UNIT", "act"), ("unit", "root")):
        refused = command("key", "new", "--name", name, "--role", role)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "Fix: " in refused.stderr
