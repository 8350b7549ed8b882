"""What may know of what: the service of nothing it can do without, the wire of its contract."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving import errors
from serving.client import Units
from serving.rest import api as rest_api
from serving.rpc import api as grpc_api
from tests.artifacts import write_artifact
from tests.serving.generate import PROTOS, generate
from tests.serving.running import RunningServer
from tests.venvs import ROOT, cached_venv, pip_install, run

SERVING = sorted((ROOT / "serving").rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The full name of every module that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they lead"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def test_serving_imports_neither_torch_nor_training() -> None:
    assert len(SERVING) > 15
    for path in SERVING:
        assert not packages(path) & {"torch", "training", "onnx", "tests", "benchmarks"}, path


def test_training_uses_only_the_client_of_serving() -> None:
    for path in (ROOT / "training").rglob("*.py"):
        for name in imported(path):
            if name.partition(".")[0] == "serving":
                assert name.startswith("serving.client"), f"{path} imports {name}"


def test_the_client_needs_the_base_install_alone() -> None:
    generated = [path for path in SERVING if "pb" in path.parts]
    base = {"grpc", "google", "numpy", "serving"} | set(sys.stdlib_module_names)
    client = ROOT / "serving" / "client"
    clients = sorted({*client.glob("*.py")} - {client / "local.py"})  # which runs the model
    assert len(clients) == 7
    for path in [*clients, ROOT / "serving" / "__init__.py", *generated]:
        assert packages(path) <= base, path
    ours = {name for path in clients for name in imported(path) if name.startswith("serving")}
    assert all(name.startswith(("serving.pb.", "serving.client")) for name in ours)


def test_a_measured_peer_runs_without_what_is_ours() -> None:
    script = ROOT / "benchmarks" / "peers" / "smax.py"
    assert packages(script) <= {"jax", "jaxmarl"} | set(sys.stdlib_module_names)


def test_the_core_knows_no_door() -> None:
    doors = {"fastapi", "starlette", "uvicorn", "grpc", "http", "httptools", "msgspec", "typer"}
    serving = ROOT / "serving"
    core = {serving / f"{name}.py" for name in ("errors", "metrics", "settings", "request_ids")}
    for package in ("models", "steps", "access"):
        core |= {*(serving / package).glob("*.py")}
    of_doors = {serving / "access" / "key_command.py", serving / "access" / "tls.py"}
    assert of_doors < core
    for path in core - of_doors:
        assert not packages(path) & doors, path
        inner = {module.split(".")[1] for module in imported(path) if module.startswith("serving.")}
        assert not inner & {"rest", "rpc", "process", "server", "client"}, path


def every(kind: type[errors.ServingError]) -> set[type[errors.ServingError]]:
    return {kind}.union(*(every(child) for child in kind.__subclasses__()))


@pytest.mark.parametrize("table", [rest_api.STATUS, grpc_api.STATUS], ids=["rest", "grpc"])
def test_each_door_has_a_word_for_every_error(
    table: dict[type[errors.ServingError], object],
) -> None:
    leaves = {kind for kind in every(errors.ServingError) if not kind.__subclasses__()}
    assert set(table) == leaves
    assert len(leaves) == 16


def test_generated_code_is_that_of_the_contracts(tmp_path: Path) -> None:
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in generate(tmp_path)}
    committed = {
        path.relative_to(ROOT): path.read_bytes()
        for path in (ROOT / "serving" / "pb").rglob("*_pb2*.py*")
        if path.suffix != ".pyc"
    }
    assert len(fresh) == 8
    assert fresh == committed, "run `make proto` and commit what it writes"
    contracts = (ROOT / "proto").rglob("*.proto")
    assert {str(path.relative_to(ROOT / "proto")) for path in contracts} == set(PROTOS)


@pytest.fixture(scope="module")
def torchless() -> Path:
    """The interpreter of an environment that holds `.[serve]`, as it is now, and nothing more."""
    key = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    python = cached_venv("serve", ".[serve]", key=key)
    installed = python.parents[1] / "serving.sha256"
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in SERVING)).hexdigest()
    if not installed.exists() or installed.read_text() != sources:
        pip_install(python, "--no-deps", "--force-reinstall", ".")
        installed.write_text(sources)
    return python


@pytest.mark.timeout(600)
def test_the_service_runs_where_torch_is_not_installed(torchless: Path, tmp_path: Path) -> None:
    names = run([str(torchless), "-m", "pip", "list", "--format=freeze"]).lower().split()
    held = {name.partition("==")[0] for name in names}
    assert {"unmix", "onnxruntime", "grpcio", "fastapi"} <= held
    assert not held & {"torch", "onnx", "tyro", "tensorboard", "matplotlib"}
    write_artifact(tmp_path / "models")
    # Away from the repository, so that it is the installed service that runs.
    with RunningServer(tmp_path / "models", python=str(torchless), cwd=tmp_path) as server:
        obs, masks = np.full((3, 7), 0.5), np.ones((3, 5), bool)
        actions = []
        for url in (f"grpc://{server.grpc}/tiny", f"{server.rest}/tiny"):
            with Units(url, [0, 1, 2]) as units:
                actions.append([units.act(obs, masks).tolist() for _ in range(3)])
        assert actions[0] == actions[1]


@pytest.mark.timeout(600)
def test_the_client_imports_with_the_base_install_alone(torchless: Path, tmp_path: Path) -> None:
    """Whatever the extras bring is hidden from it."""
    code = (
        "import sys\n"
        "for name in ('fastapi', 'uvicorn', 'uvloop', 'msgspec', 'onnxruntime', 'pydantic',"
        " 'structlog', 'typer', 'prometheus_client', 'grpc_health', 'grpc_reflection',"
        " 'google.rpc'):\n"
        "    sys.modules[name] = None\n"
        "import serving.client\n"
        "import serving.client.resuming\n"
        "print(serving.client.__file__)\n"
    )
    where = run([str(torchless), "-I", "-c", code]).strip()
    assert str(ROOT / "serving") not in where
    assert "site-packages" in where
