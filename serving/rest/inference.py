"""The Open Inference Protocol's REST door, `/v2`: JSON, or JSON with the tensors' bytes behind it.

Errors are the protocol's, `{"error": "..."}`, with the statuses of the other routes, but 400 for a
request that makes no sense.
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from starlette.requests import Request

from serving import errors
from serving.rest.api import (
    JSON,
    Headers,
    Receive,
    RestApi,
    Scope,
    Send,
    caller_of,
    problem_for,
    respond,
)
from serving.rest.inference_messages import HEADER_LENGTH, read_infer, write_infer
from serving.rest.messages import Problem
from serving.steps.inference import EXTENSIONS, NAME, PLATFORM, VERSION, Inference
from serving.steps.inference_tensors import Spec
from serving.steps.service import AgentService
from serving.steps.sessions import Sessions

Answer = tuple[int, Headers, bytes]

_encode = msgspec.json.Encoder().encode
_problem_decoder = msgspec.json.Decoder(Problem)


class RestInference:
    """The ASGI application before the rest of the door: answers `/v2` and hands on what is not."""

    def __init__(
        self, service: AgentService, sessions: Sessions, api: RestApi, holds_sequences: bool = True
    ) -> None:
        """Without `holds_sequences` callers carry their memory: another process may answer next."""
        self._inference = Inference(service, sessions, holds_sequences)
        self._service = service
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_inference(scope["path"]):
            await self._api(scope, receive, send)
            return
        try:
            answer = await self._answer(scope, receive)
        except Exception as error:
            if scope["path"].endswith("/infer"):
                self._service.count_error("rest_v2", error)
            answer = _error(error)
        await respond(send, *answer)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        """Raises: ServingError"""
        parts = scope["path"].split("/")[2:]
        match parts:
            case []:
                return _get(scope) or _json(
                    {"name": NAME, "version": VERSION, "extensions": EXTENSIONS}
                )
            case ["health", "live"]:
                return _get(scope) or _json({"live": True})
            case ["health", "ready"]:
                return _get(scope) or self._ready()
            case ["models", model, *rest] if model:
                return await self._model(scope, receive, model, rest)
        return _nothing_here()

    async def _model(self, scope: Scope, receive: Receive, model: str, parts: list[str]) -> Answer:
        version = ""
        match parts:
            case ["versions", version, *parts]:
                # An empty text would stand for the newest version.
                version = version or "0"
        match parts:
            case []:
                return _get(scope) or self._metadata(model, version)
            case ["ready"]:
                if not (refused := _get(scope)):
                    self._inference.check_model_ready(model, version)
                return refused or _json({"name": model, "ready": True})
            case ["infer"]:
                return _only(scope, "POST") or await self._infer(scope, receive, model, version)
        return _nothing_here()

    def _ready(self) -> Answer:
        return _json({"ready": self._inference.ready}, 200 if self._inference.ready else 503)

    def _metadata(self, model: str, version: str) -> Answer:
        found = self._inference.model(model, version)
        return _json(
            {
                "name": found.name,
                "versions": found.versions,
                "platform": PLATFORM,
                "inputs": [_tensor(spec) for spec in found.inputs],
                "outputs": [_tensor(spec) for spec in found.outputs],
            }
        )

    async def _infer(self, scope: Scope, receive: Receive, model: str, version: str) -> Answer:
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise errors.MalformedRequest("the body is compressed; send it as it is")
        body = await self._api.read_body(Request(scope, receive))
        infer = read_infer(body, headers.get(HEADER_LENGTH), model, version)
        host = (scope.get("client") or ("",))[0]
        answer = await self._inference.infer(infer.request, "rest_v2", host, caller_of(scope))
        headers_out, data = write_infer(answer, infer)
        return 200, [*headers_out, (b"content-length", b"%d" % len(data))], data


def is_inference(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


async def refuse_inference(send: Send, error: Exception) -> None:
    """Answer a request that is not let in."""
    await respond(send, *_error(error))


def _error(error: Exception) -> Answer:
    status, headers, body = problem_for(error)
    problem = _problem_decoder.decode(body)
    text = problem.detail + (f" (request {problem.request_id})" if problem.request_id else "")
    kept = [header for header in headers if not header[0].startswith(b"content-")]
    status, own, body = _json({"error": text}, 400 if status == 422 else status)
    return status, [*own, *kept], body


def _json(content: object, status: int = 200) -> Answer:
    body = _encode(content)
    return status, [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))], body


def _tensor(spec: Spec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": [-1, spec.width]}


def _get(scope: Scope) -> Answer | None:
    return _only(scope, "GET")


def _only(scope: Scope, method: str) -> Answer | None:
    """The refusal of any other method; None for this one."""
    if scope["method"] == method:
        return None
    phrase = HTTPStatus.METHOD_NOT_ALLOWED.phrase
    status, headers, body = _json({"error": f"{phrase}: use {method}"}, 405)
    return status, [*headers, (b"allow", method.encode())], body


def _nothing_here() -> Answer:
    return _json({"error": "there is nothing at this path"}, 404)
