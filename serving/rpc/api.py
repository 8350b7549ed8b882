"""The gRPC door: `unmix.v1.AgentService`, health and reflection on grpc.aio.

Handlers take and give bytes and parse inside, so that a malformed message is the caller's error
and not the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from serving import errors
from serving.access.entry import Access, charge
from serving.metrics import Door, error_code
from serving.models.manifest import MODEL_FILE
from serving.models.repository import ModelStatus
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.request_ids import HEADER, begin_request, request_id
from serving.rpc.asgi import AsgiServer
from serving.rpc.front import enter
from serving.rpc.inference import SERVICE as INFERENCE_SERVICE
from serving.rpc.inference import GrpcInference
from serving.rpc.messages import parse
from serving.rpc.stream_places import StreamPlaces, client_of
from serving.rpc.team import TeamStream
from serving.settings import HANDSHAKE_S, Role
from serving.steps.batcher import Caller
from serving.steps.inference import Inference
from serving.steps.service import Act, AgentService, Episode
from serving.steps.sessions import Sessions

logger = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["AgentService"].full_name
_SERVICES = (SERVICE, INFERENCE_SERVICE)

STATUS: dict[type[errors.ServingError], grpc.StatusCode] = {
    errors.MalformedRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.RequestTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.AgentNotFound: grpc.StatusCode.NOT_FOUND,
    errors.SessionNotFound: grpc.StatusCode.NOT_FOUND,
    errors.SessionBusy: grpc.StatusCode.ABORTED,
    errors.ModelNotReady: grpc.StatusCode.UNAVAILABLE,
    errors.ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Abandoned: grpc.StatusCode.CANCELLED,
    errors.ModelInvalid: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""The door's error table; anything else is INTERNAL and says no more than its request id."""

_PING_MS = 10_000
"""A connection that is silent for so long is asked whether it is there, and has as long to answer:
time for a robot's radio to come back."""

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = Callable[[Any, Context], Awaitable[bytes | None]]


class GrpcApi:
    """The gRPC server."""

    def __init__(
        self,
        service: AgentService,
        sessions: Sessions,
        address: str,
        max_message_bytes: int,
        max_streams: int,
        max_client_streams: int,
        access: Access | None = None,
        credentials: grpc.ServerCredentials | None = None,
        shares_port: bool = False,
        asgi: AsgiServer | None = None,
    ) -> None:
        """With `asgi` the calls come through that, and nothing is listened on here."""
        self._service = service
        self._inference = GrpcInference(
            service, Inference(service, sessions), self._read, self._place
        )
        self._access = access
        self._places = StreamPlaces(service.metrics, max_streams, max_client_streams)
        self._waiting: set[asyncio.Task[Any]] = set()
        """Streams that wait for their unit's next message."""
        self._stopping = False
        self.port = 0
        self._calls = 0
        self._no_calls = asyncio.Event()
        self._no_calls.set()
        self._health = health.aio.HealthServicer()
        server: Any = asgi or grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                # Without this a second server on the same port would silently share its calls.
                ("grpc.so_reuseport", int(shares_port)),
                # Who has connected and says nothing, or too little, is hung up on.
                ("grpc.server_handshake_timeout_ms", round(1000 * HANDSHAKE_S)),
                # A caller that has vanished leaves its stream, and a unit's place, to be found out.
                ("grpc.keepalive_time_ms", _PING_MS),
                ("grpc.keepalive_timeout_ms", _PING_MS),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        self._server = server
        server.add_generic_rpc_handlers([self._handlers(), self._inference_handlers()])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if access is None:  # it answers whoever asks
            names = [*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME]
            add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), server)
        if asgi is not None:
            return
        self.port = (
            server.add_insecure_port(address)
            if credentials is None
            else server.add_secure_port(address, credentials)
        )

    async def start(self) -> None:
        await self._server.start()
        for name in _SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def say_not_serving(self) -> None:
        """Tell whoever asks for, or watches, the health that nothing new is welcome."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """End the streams that wait for their unit, finish what runs, close the door."""
        self._stopping = True
        for task in list(self._waiting):
            task.cancel()
        try:
            async with asyncio.timeout(grace_s):
                await self._no_calls.wait()
        except TimeoutError:
            logger.warning("%d calls are cut short", self._calls)
        # What is left now waits for ever: those who watch the health, or keep reflection open.
        await self._server.stop(0.1)

    def _handlers(self) -> grpc.GenericRpcHandler:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Act": unary(self._guard(self._act, "grpc_unary")),
                "ActStream": stream(self._guard(self._act_stream, "grpc_stream")),
                "TeamStream": stream(self._guard(self._team_stream, "grpc_team")),
                "ListModels": unary(self._guard(self._list_models, role="observe")),
                "GetModel": unary(self._guard(self._get_model, role="observe")),
            },
        )

    def _inference_handlers(self) -> grpc.GenericRpcHandler:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        its, guard = self._inference, self._guard
        return grpc.method_handlers_generic_handler(
            INFERENCE_SERVICE,
            {
                "ServerLive": unary(guard(its.server_live, role=None)),
                "ServerReady": unary(guard(its.server_ready, role=None)),
                "ModelReady": unary(guard(its.model_ready, role="observe")),
                "ServerMetadata": unary(guard(its.server_metadata, role="observe")),
                "ModelMetadata": unary(guard(its.model_metadata, role="observe")),
                "ModelInfer": unary(guard(its.model_infer, "grpc_v2")),
                "ModelStreamInfer": stream(guard(its.model_stream_infer, "grpc_v2")),
            },
        )

    def _guard(
        self, handler: Handler, door: Door | None = None, role: Role | None = "act"
    ) -> Handler:
        """The handler for callers of a role (None: for whoever asks), with its errors as statuses,
        and counted among the running calls."""

        async def guarded(request: Any, context: Context) -> bytes | None:
            self._calls += 1
            self._no_calls.clear()
            try:
                enter(context, self._access, role)
                return await handler(request, context)
            except Exception as error:
                if door is not None:
                    self._service.count_error(door, error)
                await _abort(context, error)
            finally:
                self._calls -= 1
                if not self._calls:
                    self._no_calls.set()

        return guarded

    async def _act(self, data: bytes, context: Context) -> bytes:
        request = parse(pb.ActRequest, data)
        act = Act(
            request.agent_id,
            request.obs,
            request.avail_actions,
            request.last_action if request.HasField("last_action") else None,
            request.hidden,
            request.model,
            request.version,
        )
        model, result = await self._service.act(
            act, "grpc_unary", context.time_remaining(), _caller(context)
        )
        return pb.ActResponse(
            action=result.action,
            next_hidden=result.next_hidden,
            q_values=result.q_values if request.want_q_values else b"",
            model=model.name,
            version=model.version,
            sequence=request.sequence,
        ).SerializeToString()

    async def _act_stream(self, _: Any, context: Context) -> None:
        caller = _caller(context)
        with self._place(context):
            episode: Episode | None = None
            while (data := await self._read(context)) is not None:
                episode, answer = await self._stream_step(
                    parse(pb.ActStreamRequest, data), episode, context.time_remaining(), caller
                )
                await context.write(answer.SerializeToString())

    async def _team_stream(self, _: Any, context: Context) -> None:
        with self._place(context) as client:
            team = TeamStream(self._service, self._places, client, _caller(context))
            try:
                while (data := await self._read(context)) is not None:
                    request = parse(pb.TeamStreamRequest, data)
                    try:
                        answer = await team.answer(request, context.time_remaining())
                    except errors.ShuttingDown:
                        raise
                    except errors.ServingError as error:
                        self._service.count_error("grpc_team", error)
                        answer = pb.TeamStreamResponse(
                            sequence=request.sequence, fault=_fault(error)
                        )
                    await context.write(answer.SerializeToString())
            finally:
                team.close()

    @contextlib.contextmanager
    def _place(self, context: Context) -> Iterator[str]:
        """One of the places of streams, and whose it is. Raises: ShuttingDown, Overloaded"""
        self._service.check_accepting()
        client = client_of(context.peer())
        self._places.take(client, 1)
        try:
            yield client
        finally:
            self._places.give_back(client, 1)

    async def _read(self, context: Context) -> bytes | None:
        """The stream's next message; None at its end.

        Raises:
            ShuttingDown, NotAuthenticated, RateLimited
        """
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            data: bytes | object = await context.read()
        except asyncio.CancelledError:
            if self._stopping and not context.cancelled():
                self._service.check_accepting()
            raise
        finally:
            self._waiting.discard(task)
        if not isinstance(data, bytes):  # but grpc.aio.EOF
            return None
        if self._access is not None:
            charge()
        return data

    async def _stream_step(
        self,
        request: pb.ActStreamRequest,
        episode: Episode | None,
        timeout_s: float | None,
        caller: Caller,
    ) -> tuple[Episode, pb.ActStreamResponse]:
        answer = pb.ActStreamResponse(sequence=request.sequence)
        if request.HasField("begin"):
            begin = request.begin
            episode = self._service.begin(
                begin.agent_id,
                begin.model,
                begin.version,
                begin.hidden,
                begin.last_action if begin.HasField("last_action") else None,
            )
            answer.model, answer.version = episode.model.name, episode.model.version
            if not (request.obs or request.avail_actions):
                return episode, answer
        if episode is None:
            raise errors.InvalidRequest("begin", "a stream's first request needs begin")
        result = await self._service.step(
            episode,
            request.obs,
            request.avail_actions,
            "grpc_stream",
            request.last_action if request.HasField("last_action") else None,
            timeout_s,
            caller,
        )
        answer.action = result.action
        if request.want_next_hidden:
            answer.next_hidden = result.next_hidden
        if request.want_q_values:
            answer.q_values = result.q_values
        return episode, answer

    async def _list_models(self, data: bytes, _: Context) -> bytes:
        parse(pb.ListModelsRequest, data)
        models = [_model(status) for status in self._service.repository.statuses()]
        return pb.ListModelsResponse(models=models).SerializeToString()

    async def _get_model(self, data: bytes, _: Context) -> bytes:
        request = parse(pb.GetModelRequest, data)
        status = self._service.repository.status(request.name, request.version)
        return pb.GetModelResponse(model=_model(status)).SerializeToString()


def _caller(context: Context) -> Caller:
    """The connection: calls over the same one share their turns."""
    return Caller(context.peer())


async def _abort(context: Context, error: Exception) -> NoReturn:
    """End the call with the error's status and, in its details, what a program may read."""
    if isinstance(error, errors.ServingError):
        code, text, details = STATUS[type(error)], error.message, _details(error)
    else:
        named = request_id.get() or begin_request()
        logger.error("call %s failed", named, exc_info=error)
        code, text = grpc.StatusCode.INTERNAL, "internal error"
        details = [error_details_pb2.RequestInfo(request_id=named)]
    status = status_pb2.Status(code=code.value[0], message=text)
    for detail in details:
        status.details.add().Pack(detail)
    trailing = (("grpc-status-details-bin", status.SerializeToString()), (HEADER, request_id.get()))
    await context.abort(code, text, trailing)


def _details(error: errors.ServingError) -> list[Message]:
    reason = error_code(error).upper()
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain="unmix")]
    if isinstance(error, errors.InvalidRequest):
        fault = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[fault]))
    if isinstance(error, errors.TryLater):
        delay = Duration(seconds=error.retry_after_s)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _fault(error: errors.ServingError) -> pb.TeamFault:
    return pb.TeamFault(
        code=STATUS[type(error)].value[0],
        reason=error_code(error).upper(),
        message=error.message,
        field=error.field if isinstance(error, errors.InvalidRequest) else "",
        retry_after_s=error.retry_after_s if isinstance(error, errors.TryLater) else 0,
    )


def _model(status: ModelStatus) -> pb.Model:
    model = pb.Model(name=status.name, version=status.version, reason=status.reason)
    if status.model is None:
        model.state = pb.Model.STATE_REFUSED
        return model
    manifest = status.model.manifest
    model.state = pb.Model.STATE_RETIRING if status.retiring else pb.Model.STATE_READY
    model.latest = status.latest
    model.map = manifest.map
    model.environment = manifest.environment.name
    model.layout_sha256 = manifest.environment.layout_sha256
    model.algorithm = manifest.algorithm
    model.q_values_hold = manifest.q_values
    dims = manifest.dims
    model.dims.n_agents, model.dims.n_actions = dims.n_agents, dims.n_actions
    model.dims.obs_dim, model.dims.hidden_dim = dims.obs_dim, dims.hidden_dim
    model.episode_limit = manifest.episode_limit
    model.unit_types.extend(agent.unit_type for agent in manifest.agents)
    model.win_rate = manifest.training.win_rate
    model.sha256 = manifest.files[MODEL_FILE].sha256
    return model
