"""The admin door: which model versions take steps, on a port of its own.

It is off unless asked for, listens on this machine only, and turns web pages away: a browser that
runs here could otherwise be made to knock by any page it shows.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import FastAPI, Request, Response
from msgspec import Meta
from starlette.exceptions import HTTPException

from serving import errors
from serving.models.control import ModelControl
from serving.models.repository import ModelStatus
from serving.rest.api import JSON, answer_error, answer_http_error

ADMIN_HOST = "127.0.0.1"

_encode = msgspec.json.Encoder().encode


class VersionState(msgspec.Struct, omit_defaults=True):
    """One version of one model, as whoever runs the service sees it."""

    name: str
    version: int
    state: Literal["ready", "refused", "retiring"]
    latest: Annotated[bool, Meta(description="Whether new episodes begin here by default.")]
    reason: Annotated[str, Meta(description="Why it was refused.")] = ""
    episodes: Annotated[int, Meta(description="Held episodes: open streams and sessions.")] = 0
    provider: Annotated[str, Meta(description="What of onnxruntime runs it.")] = ""
    sha256: str = ""


class VersionList(msgspec.Struct):
    """The repository."""

    models: list[VersionState]


def create_admin_app(control: ModelControl) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(title="Unmix admin", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(errors.ServingError, answer_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(Exception, answer_error)

    @app.get("/models")
    async def list_models() -> Response:
        return _listing(control)

    @app.post("/models/scan")
    async def scan(request: Request) -> Response:
        """Load what is new in the folder, unload what has gone."""
        _turn_pages_away(request)
        await control.scan()
        return _listing(control)

    @app.post("/models/{name}/{version}/load")
    async def load(name: str, version: str, request: Request) -> Response:
        _turn_pages_away(request)
        await control.load(name, _version(version))
        return _one(control, name, _version(version))

    @app.post("/models/{name}/{version}/unload")
    async def unload(name: str, version: str, request: Request) -> Response:
        _turn_pages_away(request)
        await control.unload(name, _version(version))
        return _one(control, name, _version(version))

    return app


def _turn_pages_away(request: Request) -> None:
    """Browsers name the page's origin in every POST, and pages cannot keep them from it."""
    if "origin" in request.headers:
        raise HTTPException(403)


def _version(text: str) -> int:
    """Raises: ModelNotFound"""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise errors.ModelNotFound("versions are whole numbers from 1")
    return int(text)


def _listing(control: ModelControl) -> Response:
    found = VersionList([_state(status) for status in control.statuses()])
    return Response(_encode(found), media_type=JSON)


def _one(control: ModelControl, name: str, version: int) -> Response:
    (found,) = [it for it in control.statuses() if (it.name, it.version) == (name, version)]
    return Response(_encode(_state(found)), media_type=JSON)


def _state(status: ModelStatus) -> VersionState:
    model = status.model
    if model is None:
        return VersionState(status.name, status.version, "refused", False, status.reason)
    return VersionState(
        status.name,
        status.version,
        "retiring" if status.retiring else "ready",
        status.latest,
        episodes=model.n_episodes,
        provider=model.provider,
        sha256=model.sha256,
    )
