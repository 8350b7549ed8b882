from tests.serving.conftest import model, models, policy, server

__all__ = ["model", "models", "policy", "server"]
