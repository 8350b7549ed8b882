"""The REST door: JSON in, JSON out, RFC 9457 problems for errors.

Stepping (`POST /agents/{agent_id}/act`, `POST /act`) is answered by `RestApi` itself, ahead of
FastAPI, whose machinery would cost several times the step. FastAPI answers everything else and
writes the docs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from serving import errors
from serving.metrics import Door, error_code
from serving.request_ids import begin_request, request_id
from serving.rest import binary as rest_binary
from serving.rest.messages import (
    ActAnswer,
    ActRequest,
    FieldFault,
    ModelAnswer,
    ModelList,
    Problem,
    ResetRequest,
    SessionAnswer,
    SessionRequest,
    checked_version,
    decode,
    model_answer,
    pack_floats,
    pack_mask,
    pack_memory,
    unpack_floats,
    unpack_memory,
)
from serving.rest.team import TeamAnswer, TeamRequest, TeamRow, TeamRowAnswer, act_many
from serving.steps.batcher import Caller
from serving.steps.service import Act, AgentService, Episode
from serving.steps.sessions import Sessions

logger = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

CALLER = "unmix.caller"
"""Where in a request's scope the server that took it says whose it is."""

STATUS: dict[type[errors.ServingError], int] = {
    errors.MalformedRequest: 400,
    errors.RequestTooLarge: 413,
    errors.InvalidRequest: 422,
    errors.ModelNotFound: 404,
    errors.AgentNotFound: 404,
    errors.SessionNotFound: 404,
    errors.SessionBusy: 409,
    errors.ModelNotReady: 503,
    errors.ShuttingDown: 503,
    errors.Overloaded: 429,
    errors.DeadlineExceeded: 504,
    errors.Abandoned: 503,  # whoever asked has hung up
    errors.NotAuthenticated: 401,
    errors.NotAllowed: 403,
    errors.RateLimited: 429,
    errors.ModelInvalid: 409,
}
"""The door's error table; anything else is a 500 that says no more than its request id."""

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"


_act_decoder = msgspec.json.Decoder(ActRequest)
_team_decoder = msgspec.json.Decoder(TeamRequest)
_session_decoder = msgspec.json.Decoder(SessionRequest)
_reset_decoder = msgspec.json.Decoder(ResetRequest)
_encode = msgspec.json.Encoder().encode
_JSON: tuple[bytes, bytes] = (b"content-type", JSON.encode())
_OCTETS: tuple[bytes, bytes] = (b"content-type", rest_binary.OCTETS.encode())


class RestApi:
    """The ASGI application."""

    def __init__(self, service: AgentService, sessions: Sessions, max_body_bytes: int) -> None:
        self._service = service
        self._sessions = sessions
        self._max_body_bytes = max_body_bytes
        service.metrics.n_sessions = lambda: len(sessions)
        self.app = _create_app(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        if scope["method"] == "POST" and path.endswith("/act"):
            if path.startswith("/agents/"):
                await respond(send, *await self.answer_act(path[8:-4], receive, scope))
                return
            if path == "/act":
                await respond(send, *await self.answer_team(receive, scope))
                return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if started:  # FastAPI's handler has answered; it raises again for servers that log
                return
            await respond(send, *problem_for(error))

    def answer_act(
        self, agent: str, receive: Receive, scope: Scope
    ) -> Awaitable[tuple[int, Headers, bytes]]:
        """(status, headers, body) of one step."""
        if _is_binary(scope):

            async def act(body: bytes) -> bytes:
                agent_id = _whole_number(agent)
                return await rest_binary.act_one(self._service, agent_id, body, caller_of(scope))

            return self._answer_steps("rest", receive, act, _OCTETS)
        return self._answer_steps(
            "rest",
            receive,
            lambda body: self._act(agent, decode(_act_decoder, body), caller_of(scope)),
        )

    async def answer_team(self, receive: Receive, scope: Scope) -> tuple[int, Headers, bytes]:
        """(status, headers, body) of many agents' steps."""
        if _is_binary(scope):
            return await self._answer_steps(
                "rest_team",
                receive,
                lambda body: rest_binary.act_many(self._service, body, caller_of(scope)),
                _OCTETS,
            )

        async def act(body: bytes) -> bytes:
            request = decode(_team_decoder, body)
            return _encode(await act_many(self._service, request, caller_of(scope)))

        return await self._answer_steps("rest_team", receive, act)

    async def _answer_steps(
        self,
        door: Door,
        receive: Receive,
        act: Callable[[bytes], Awaitable[bytes]],
        content_type: tuple[bytes, bytes] = _JSON,
    ) -> tuple[int, Headers, bytes]:
        try:
            self._service.check_backlog()
            answer = await act(await self._read_body(receive))
        except Exception as error:
            self._service.count_error(door, error)
            return problem_for(error)
        return 200, [content_type, (b"content-length", b"%d" % len(answer))], answer

    async def _act(self, agent: str, request: ActRequest, caller: Caller) -> bytes:
        agent_id = _whole_number(agent)
        obs, mask = pack_floats("obs", request.obs), pack_mask(request.avail_actions)
        want = request.want
        if request.session is not None:
            episode = self._session_episode(request.session, agent_id, request)
            result = await self._service.step(
                episode, obs, mask, "rest", request.last_action, caller=caller
            )
            model, want_hidden = episode.model, "next_hidden" in want
        else:
            act = Act(
                agent_id,
                obs,
                mask,
                request.last_action,
                pack_memory(request.hidden, self._service.seals_memory),
                request.model or "",
                checked_version(request.version),
            )
            model, result = await self._service.act(act, "rest", caller=caller)
            want_hidden = True
        return _encode(
            ActAnswer(
                result.action,
                model.name,
                model.version,
                unpack_memory(result.next_hidden, self._service.seals_memory)
                if want_hidden
                else None,
                unpack_floats(result.q_values) if "q_values" in want else None,
            )
        )

    def _session_episode(self, session: str, agent_id: int, request: ActRequest) -> Episode:
        episode = self._sessions.get(session)
        if agent_id != episode.agent_id:
            raise errors.InvalidRequest("session", "the session is another agent's")
        if request.hidden is not None:
            raise errors.InvalidRequest("hidden", "hidden is the session's; leave it out")
        if request.model not in (None, "", episode.model.name) or checked_version(
            request.version
        ) not in (
            0,
            episode.model.version,
        ):
            raise errors.InvalidRequest("model", f"the session is with {episode.model.label}")
        return episode

    async def open_session(self, body: bytes, client: str) -> SessionAnswer:
        request = decode(_session_decoder, body)
        episode = self._begin(request.agent_id, request)
        return self._session_answer(self._sessions.open(episode, client), episode)

    async def reset_session(self, session: str, body: bytes) -> SessionAnswer:
        """Begin a new episode for the session's unit, by default on the newest version of the
        session's model."""
        old = self._sessions.get(session)
        request = decode(_reset_decoder, body or b"{}")
        if not request.model:
            request.model = old.model.name
        episode = self._begin(old.agent_id, request)
        self._sessions.replace(session, episode)
        return self._session_answer(session, episode)

    def _begin(self, agent_id: int, request: ResetRequest) -> Episode:
        return self._service.begin(
            agent_id,
            request.model or "",
            checked_version(request.version),
            pack_memory(request.hidden, self._service.seals_memory),
            request.last_action,
        )

    def _session_answer(self, session: str, episode: Episode) -> SessionAnswer:
        model = episode.model
        return SessionAnswer(
            session, episode.agent_id, model.name, model.version, self._sessions.ttl_s
        )

    def close_session(self, session: str) -> None:
        self._sessions.close(session)

    def models(self) -> ModelList:
        return ModelList([model_answer(status) for status in self._service.repository.statuses()])

    def model(self, name: str, version: str | None) -> ModelAnswer:
        number = 0 if version is None else _whole_number(version)
        if version is not None and number < 1:
            raise errors.ModelNotFound("versions are whole numbers from 1")
        return model_answer(self._service.repository.status(name, number))

    def count_error(self, error: Exception) -> None:
        self._service.count_error("rest", error)

    @property
    def ready(self) -> bool:
        return self._service.ready

    def exposition(self, accept: str) -> tuple[bytes, str]:
        return self._service.metrics.exposition(accept)

    async def _read_body(self, receive: Receive) -> bytes:
        """Raises: RequestTooLarge, as soon as the limit is passed; Abandoned"""
        pieces: list[bytes] = []
        room = self._max_body_bytes
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise errors.Abandoned("the caller left before its request had arrived")
            piece: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise errors.RequestTooLarge(f"the body is over {self._max_body_bytes} bytes")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read_body(self, request: Request) -> bytes:
        return await self._read_body(request.receive)


def caller_of(scope: Scope) -> Caller:
    """The connection. Where the server does not say, its address stands for it."""
    caller = scope.get(CALLER)
    return caller if isinstance(caller, Caller) else Caller(scope.get("client"))


def _is_binary(scope: Scope) -> bool:
    return _OCTETS in scope["headers"]


def problem_for(error: Exception) -> tuple[int, Headers, bytes]:
    """(status, headers, body) for an error."""
    headers: Headers = [(b"content-type", PROBLEM_JSON.encode())]
    if isinstance(error, errors.ServingError):
        status = STATUS[type(error)]
        problem = _describe(status, error_code(error), error.message)
        if isinstance(error, errors.InvalidRequest):
            problem.errors = [FieldFault(error.field, error.message)]
        if isinstance(error, errors.TryLater):
            headers.append((b"retry-after", b"%d" % error.retry_after_s))
        elif isinstance(error, errors.Unavailable):
            headers.append((b"retry-after", b"1"))
        elif isinstance(error, errors.NotAuthenticated):
            headers.append((b"www-authenticate", b"Bearer"))
    else:
        status = 500
        problem = _describe(status, error_code(error), "internal error")
        problem.request_id = request_id.get() or begin_request()
        logger.error("request %s failed", problem.request_id, exc_info=error)
    body = _encode(problem)
    headers.append((b"content-length", b"%d" % len(body)))
    return status, headers, body


def _describe(status: int, code: str, detail: str) -> Problem:
    return Problem(
        f"urn:unmix:problem:{code.replace('_', '-')}", HTTPStatus(status).phrase, status, detail
    )


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, error: Exception) -> None:
    """Answer a request that is not let in."""
    await respond(send, *problem_for(error))


def _whole_number(text: str) -> int:
    """The number that a piece of a path spells; -1 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _create_app(api: RestApi) -> FastAPI:
    app = FastAPI(
        title="Unmix step service",
        version="1",
        description="Steps trained agents: each sees its own observation and nothing else. The "
        "same service speaks gRPC (unmix.v1.AgentService).",
        redoc_url=None,
    )
    app.add_exception_handler(errors.ServingError, answer_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(Exception, answer_error)
    _add_act_routes(app, api)
    _add_model_routes(app, api)
    _add_probe_routes(app, api)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _add_act_routes(app: FastAPI, api: RestApi) -> None:
    @app.post(
        "/agents/{agent_id}/act",
        tags=["steps"],
        summary="Step one agent",
        description=_BINARY,
        **_documented(
            ActAnswer, ActRequest, 400, 404, 409, 413, 422, 429, 500, 503, 504, binary=True
        ),
    )
    async def act(agent_id: str, request: Request) -> Response:
        # For the docs, and for whoever mounts `app` without the shim, which answers this itself.
        return _response(*await api.answer_act(agent_id, request.receive, request.scope))

    @app.post(
        "/act",
        tags=["steps"],
        summary="Step many agents at once",
        description=_BINARY,
        **_documented(TeamAnswer, TeamRequest, 400, 404, 413, 422, 429, 500, 503, 504, binary=True),
    )
    async def act_many(request: Request) -> Response:
        return _response(*await api.answer_team(request.receive, request.scope))

    @app.post(
        "/sessions",
        tags=["sessions"],
        summary="Let the service hold a unit's memory",
        status_code=201,
        **_documented(SessionAnswer, SessionRequest, 400, 404, 413, 422, 429, 503, ok=201),
    )
    async def open_session(request: Request) -> Response:
        client = request.client.host if request.client else ""
        return _answer(await api.open_session(await api.read_body(request), client), 201)

    @app.post(
        "/sessions/{session}/reset",
        tags=["sessions"],
        summary="Begin the unit's next episode",
        **_documented(SessionAnswer, ResetRequest, 400, 404, 413, 422, 503, optional=True),
    )
    async def reset_session(session: str, request: Request) -> Response:
        return _answer(await api.reset_session(session, await api.read_body(request)))

    @app.delete(
        "/sessions/{session}",
        tags=["sessions"],
        summary="Forget a session",
        status_code=204,
        responses=_problems(404),
    )
    async def close_session(session: str) -> Response:
        api.close_session(session)
        return Response(status_code=204)


def _add_model_routes(app: FastAPI, api: RestApi) -> None:
    @app.get(
        "/models", tags=["models"], summary="Every model version", **_documented(ModelList, None)
    )
    async def list_models() -> Response:
        return _answer(api.models())

    @app.get(
        "/models/{name}",
        tags=["models"],
        summary="The newest version of a model",
        **_documented(ModelAnswer, None, 404, 503),
    )
    async def newest_model(name: str) -> Response:
        return _answer(api.model(name, None))

    @app.get(
        "/models/{name}/versions/{version}",
        tags=["models"],
        summary="One version of a model",
        **_documented(ModelAnswer, None, 404),
    )
    async def one_model(name: str, version: str) -> Response:
        return _answer(api.model(name, version))


def _add_probe_routes(app: FastAPI, api: RestApi) -> None:
    @app.get("/livez", tags=["probes"], summary="Whether the process answers")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get(
        "/readyz",
        tags=["probes"],
        summary="Whether new episodes are welcome",
        responses={503: {"description": "Not ready: nothing loaded, or shutting down."}},
    )
    async def readyz(response: Response) -> dict[str, str]:
        response.status_code = 200 if api.ready else 503
        return {"status": "ready" if api.ready else "not ready"}

    @app.get(
        "/metrics",
        tags=["probes"],
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics(request: Request) -> Response:
        body, content_type = api.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})


def _answer(answer: msgspec.Struct, status: int = 200) -> Response:
    return Response(_encode(answer), status, media_type=JSON)


def _response(status: int, headers: Headers, body: bytes) -> Response:
    return Response(body, status, {k.decode(): v.decode() for k, v in headers})


async def answer_error(_: Request, error: Exception) -> Response:
    return _response(*problem_for(error))


async def answer_http_error(_: Request, error: Exception) -> Response:
    """What FastAPI finds by itself: no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    problem = _describe(error.status_code, phrase.lower().replace(" ", "_"), phrase)
    return Response(_encode(problem), error.status_code, error.headers, PROBLEM_JSON)


_BINARY = f"JSON, or `{rest_binary.OCTETS}`:\n```text\n{rest_binary.__doc__}\n```"
_OCTETS_CONTENT = {rest_binary.OCTETS: {"schema": {"type": "string", "format": "binary"}}}

_DOCUMENTED: tuple[type[msgspec.Struct], ...] = (
    ActRequest, ActAnswer, SessionRequest, ResetRequest, SessionAnswer,
    TeamRequest, TeamRow, TeamAnswer, TeamRowAnswer, ModelAnswer, ModelList, Problem, FieldFault,
)  # fmt: skip


def _content(message: type[msgspec.Struct], media_type: str = JSON) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{message.__name__}"}}}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": _content(Problem, PROBLEM_JSON),
        }
        for status in statuses
    }


def _documented(
    answer: type[msgspec.Struct],
    request: type[msgspec.Struct] | None,
    *problems: int,
    ok: int = 200,
    optional: bool = False,
    binary: bool = False,
) -> dict[str, Any]:
    """How FastAPI documents a route whose messages it never parses."""
    responses: dict[int | str, dict[str, Any]] = {
        ok: {"description": HTTPStatus(ok).phrase, "content": _content(answer)}
    }
    documented: dict[str, Any] = {
        "responses": responses | _problems(*problems),
        "response_class": Response,
    }
    if binary:
        responses[ok]["content"] |= _OCTETS_CONTENT
    if request is not None:
        body: dict[str, Any] = {"required": not optional, "content": _content(request)}
        if binary:
            body["content"] |= _OCTETS_CONTENT
        documented["openapi_extra"] = {"requestBody": body}
    return documented


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        _, components = msgspec.json.schema_components(
            _DOCUMENTED, ref_template="#/components/schemas/{name}"
        )
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schema.setdefault("components", {})["schemas"] = components
        for methods in schema["paths"].values():
            for operation in methods.values():
                # FastAPI's own form of 422, which nothing here ever answers.
                fault = operation["responses"].get("422", {})
                if PROBLEM_JSON not in fault.get("content", {}):
                    operation["responses"].pop("422", None)
        app.openapi_schema = schema
    return app.openapi_schema
