import pytest

from tests.serving.conftest import model, models, policy, server

__all__ = ["model", "models", "policy", "server"]


@pytest.fixture(scope="session")
def front() -> str:
    """Of the server: the one that containers run."""
    return "grpcio"
