"""What the OpenAPI says of credentials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from serving.rest.security import describe_security
from serving.settings import Settings
from tests.serving.running import RunningServer
from tests.serving.test_access import write_keys

FILE = Path("file")


def described(settings: Settings) -> dict[str, Any]:
    app = FastAPI()

    async def nothing() -> None:
        return None

    app.get("/models")(nothing)
    app.get("/livez")(nothing)
    app.openapi()["components"] = {}
    before, app.openapi_schema = app.openapi_schema, None
    assert before is not None
    app.openapi = lambda: before  # type: ignore[method-assign]
    describe_security(app, settings)
    return app.openapi()


@pytest.mark.parametrize(
    ("settings", "schemes", "security"),
    [
        ({"keys": FILE}, {"key", "bearer"}, [{"key": []}, {"bearer": []}]),
        ({"jwks": FILE}, {"bearer"}, [{"bearer": []}]),
        ({"client_ca": FILE}, {"certificate"}, [{"certificate": []}]),
        (
            {"client_ca": FILE, "client_role": "none", "jwks": FILE},
            {"certificate", "bearer"},
            [{"bearer": [], "certificate": []}],
        ),
        (
            {"client_ca": FILE, "jwks": FILE},
            {"certificate", "bearer"},
            [{"certificate": []}, {"bearer": [], "certificate": []}],
        ),
    ],
)
def test_each_way_to_be_let_in_is_described(
    settings: dict[str, Any], schemes: set[str], security: list[dict[str, list[str]]]
) -> None:
    schema = described(Settings(**settings))
    assert set(schema["components"]["securitySchemes"]) == schemes
    assert schema["paths"]["/models"]["get"]["security"] == security
    assert schema["paths"]["/livez"]["get"]["security"] == []


def test_a_guarded_service_says_what_each_path_needs(models: Path, tmp_path: Path) -> None:
    act, observe = write_keys(tmp_path / "keys", "act", "observe")
    with RunningServer(models, {"keys": tmp_path / "keys"}) as server:
        for _ in range(2):  # made once, then remembered
            headers = {"x-api-key": observe}
            answer = httpx.get(f"{server.rest}/openapi.json", headers=headers, trust_env=False)
            paths = answer.json()["paths"]
        assert "Needs the role `act`." in paths["/agents/{agent_id}/act"]["post"]["description"]
        for operation in (paths["/sessions"]["post"], paths["/models"]["get"]):
            assert {"401", "403", "429"} <= set(operation["responses"])
        assert "401" not in paths["/livez"]["get"]["responses"]
        refused = httpx.get(f"{server.rest}/models", headers={"x-api-key": act}, trust_env=False)
        assert str(refused.status_code) in paths["/models"]["get"]["responses"]


def test_a_service_without_credentials_describes_none(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()
    assert "securitySchemes" not in schema["components"]
    assert all("security" not in it for path in schema["paths"].values() for it in path.values())
