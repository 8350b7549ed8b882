"""The REST door's OpenAPI where callers have to say who they are: what they may show, what each
path needs, and how they are turned away."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from serving.rest.api import PROBLEM_JSON
from serving.rest.front import role_for
from serving.settings import Settings

_REFUSALS = {
    "401": ("No credential, or none that holds.", "www-authenticate", "Bearer"),
    "403": ("The credential's role is another.", "", ""),
    "429": ("Over the caller's rate, or too much is waiting.", "retry-after", "Seconds to wait."),
}


def describe_security(app: FastAPI, settings: Settings) -> None:
    """Let the application's OpenAPI say it too."""
    plain = app.openapi

    def secured() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _secured(plain(), settings)
        return app.openapi_schema

    app.openapi = secured  # type: ignore[method-assign]


def _secured(schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
    schema["components"]["securitySchemes"] = _schemes(settings)
    for path, operations in schema["paths"].items():
        role = role_for(path)
        for operation in operations.values():
            operation["security"] = [] if role is None else _alternatives(settings)
            if role is not None:
                needs = f"Needs the role `{role}`."
                operation["description"] = f"{operation.get('description', '')}\n\n{needs}".strip()
                operation["responses"] |= {code: _refusal(code) for code in _REFUSALS}
    return schema


def _schemes(settings: Settings) -> dict[str, Any]:
    """All that can be shown here."""
    schemes: dict[str, Any] = {}
    if settings.keys:
        schemes["key"] = {"type": "apiKey", "in": "header", "name": "x-api-key"}
    if settings.keys or settings.jwks:
        form = {"bearerFormat": "JWT"} if settings.jwks else {}
        schemes["bearer"] = {"type": "http", "scheme": "bearer"} | form
    if settings.client_ca:
        schemes["certificate"] = {"type": "mutualTLS"}
    return schemes


def _alternatives(settings: Settings) -> list[dict[str, list[str]]]:
    """Each is enough; what stands in one is needed together."""
    tokens: list[dict[str, list[str]]] = [
        {name: []} for name in _schemes(settings) if name != "certificate"
    ]
    if not settings.client_ca:
        return tokens
    certificate: dict[str, list[str]] = {"certificate": []}
    alone = [] if settings.client_role == "none" else [certificate]
    return alone + [token | certificate for token in tokens]


def _refusal(code: str) -> dict[str, Any]:
    description, header, about = _REFUSALS[code]
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    response: dict[str, Any] = {"description": description, "content": content}
    if header:
        response["headers"] = {header: {"description": about, "schema": {"type": "string"}}}
    return response
