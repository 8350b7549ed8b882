"""The Open Inference Protocol's gRPC door, `inference.GRPCInferenceService`, on the same server.

Faults are statuses, as of the service's own door; in a stream they are `error_message`s, and the
stream goes on.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import grpc
import numpy as np

from serving.errors import InvalidRequest, ModelNotFound, ServingError, ShuttingDown, Unavailable
from serving.pb.inference import inference_service_pb2 as pb
from serving.rpc.messages import parse
from serving.steps.batcher import Caller
from serving.steps.inference import (
    EXTENSIONS,
    NAME,
    PLATFORM,
    VERSION,
    InferAnswer,
    Inference,
    InferRequest,
    SequenceStep,
)
from serving.steps.inference_tensors import Tensor, write_bytes
from serving.steps.service import AgentService

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Read: TypeAlias = Callable[[Context], Awaitable[bytes | None]]

_US = 1_000_000
_UNSIGNED_64 = 2**64


class GrpcInference:
    """The protocol's methods, each from a message's bytes to its answer's.

    Args:
        read: a stream's next message; None at its end.
        place: within, a stream has its place among those that may be open.
    """

    def __init__(
        self,
        service: AgentService,
        inference: Inference,
        read: Read,
        place: Callable[[Context], AbstractContextManager[object]],
    ) -> None:
        self._service, self._inference = service, inference
        self._read, self._place = read, place

    async def server_live(self, data: bytes, _: Context) -> bytes:
        parse(pb.ServerLiveRequest, data)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, data: bytes, _: Context) -> bytes:
        parse(pb.ServerReadyRequest, data)
        return pb.ServerReadyResponse(ready=self._inference.ready).SerializeToString()

    async def model_ready(self, data: bytes, _: Context) -> bytes:
        request = parse(pb.ModelReadyRequest, data)
        try:
            self._inference.check_model_ready(request.name, request.version)
        except (Unavailable, ModelNotFound):
            return pb.ModelReadyResponse().SerializeToString()
        return pb.ModelReadyResponse(ready=True).SerializeToString()

    async def server_metadata(self, data: bytes, _: Context) -> bytes:
        parse(pb.ServerMetadataRequest, data)
        return pb.ServerMetadataResponse(
            name=NAME, version=VERSION, extensions=EXTENSIONS
        ).SerializeToString()

    async def model_metadata(self, data: bytes, _: Context) -> bytes:
        request = parse(pb.ModelMetadataRequest, data)
        found = self._inference.model(request.name, request.version)
        tensors = [
            [
                pb.ModelMetadataResponse.TensorMetadata(
                    name=spec.name, datatype=spec.datatype, shape=[-1, spec.width]
                )
                for spec in specs
            ]
            for specs in (found.inputs, found.outputs)
        ]
        return pb.ModelMetadataResponse(
            name=found.name,
            versions=found.versions,
            platform=PLATFORM,
            inputs=tensors[0],
            outputs=tensors[1],
        ).SerializeToString()

    async def model_infer(self, data: bytes, context: Context) -> bytes:
        answer = await self._infer(parse(pb.ModelInferRequest, data), context)
        return answer.SerializeToString()

    async def model_stream_infer(self, _: Any, context: Context) -> None:
        with self._place(context):
            while (data := await self._read(context)) is not None:
                request = parse(pb.ModelInferRequest, data)
                try:
                    answer = pb.ModelStreamInferResponse(
                        infer_response=await self._infer(request, context)
                    )
                except ShuttingDown:
                    raise
                except ServingError as error:
                    self._service.count_error("grpc_v2", error)
                    answer = pb.ModelStreamInferResponse(
                        error_message=error.message,
                        infer_response=pb.ModelInferResponse(id=request.id),
                    )
                await context.write(answer.SerializeToString())

    async def _infer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        peer = context.peer()
        answer = await self._inference.infer(
            _read_infer(request, context.time_remaining()), "grpc_v2", host_of(peer), Caller(peer)
        )
        return _write_infer(answer, request.id)


def host_of(peer: str) -> str:
    """The address of a gRPC peer, as HTTP servers give it: without kind, brackets and port."""
    found = re.fullmatch(r"ipv[46]:(?:%5B|\[)?(.*?)(?:%5D|\])?:\d+", peer)
    return found[1] if found else peer


def _read_infer(request: pb.ModelInferRequest, timeout_s: float | None) -> InferRequest:
    """Raises: InvalidRequest"""
    for output in request.outputs:
        if output.parameters:
            raise InvalidRequest("outputs", "outputs take no parameters here")
    return InferRequest(
        _read_inputs(request),
        [output.name for output in request.outputs],
        request.model_name,
        request.model_version,
        SequenceStep(
            _sequence_id(request),
            _flag(request, "sequence_start"),
            _flag(request, "sequence_end"),
        ),
        _shorter(timeout_s, _timeout_s(request)),
    )


def _sequence_id(request: pb.ModelInferRequest) -> int | str:
    parameter = request.parameters.get("sequence_id")
    if parameter is None:
        return 0
    match parameter.WhichOneof("parameter_choice"):
        case None:
            return 0
        case "int64_param":
            # Clients send unsigned ids in the signed field.
            return int(parameter.int64_param) % _UNSIGNED_64
        case "uint64_param":
            return int(parameter.uint64_param)
        case "string_param":
            return str(parameter.string_param)
    raise InvalidRequest("sequence_id", "sequence_id must be a whole number or text")


def _flag(request: pb.ModelInferRequest, name: str) -> bool:
    parameter = request.parameters.get(name)
    if parameter is None:
        return False
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidRequest(name, f"{name} must be true or false")
    return bool(parameter.bool_param)


def _timeout_s(request: pb.ModelInferRequest) -> float | None:
    """The parameter `timeout`, which is in microseconds; 0 for none."""
    parameter = request.parameters.get("timeout")
    if parameter is None:
        return None
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(parameter, kind) < 0:
        raise InvalidRequest("timeout", "timeout must be a whole number of microseconds from 0")
    return getattr(parameter, kind) / _US or None


def _shorter(first: float | None, second: float | None) -> float | None:
    given = [timeout for timeout in (first, second) if timeout is not None]
    return min(given, default=None)


def _read_inputs(request: pb.ModelInferRequest) -> list[Tensor]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(
            "raw_input_contents",
            f"raw_input_contents has {len(raw)} items for {len(request.inputs)} inputs",
        )
    tensors = []
    for place, tensor in enumerate(request.inputs):
        field = f"inputs[{place}]"
        if tensor.parameters:
            raise InvalidRequest(field, f"{field} takes no parameters here")
        if raw and tensor.HasField("contents"):
            raise InvalidRequest(field, f"{field} must have contents or raw contents, not both")
        data = raw[place] if raw else _pack(field, tensor)
        tensors.append(Tensor(tensor.name, tensor.datatype, list(tensor.shape), data))
    return tensors


def _pack(field: str, tensor: pb.ModelInferRequest.InferInputTensor) -> bytes:
    contents = tensor.contents
    match tensor.datatype:
        case "FP32":
            return np.array(contents.fp32_contents, "<f4").tobytes()
        case "BOOL":
            return bytes(contents.bool_contents)
        case "INT64":
            return struct.pack(f"<{len(contents.int64_contents)}q", *contents.int64_contents)
        case "BYTES":
            return write_bytes(contents.bytes_contents)
    raise InvalidRequest(field, f"{field} must have datatype FP32, INT64, BOOL or BYTES")


def _write_infer(answer: InferAnswer, request_id: str) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(
        model_name=answer.model,
        model_version=str(answer.version),
        id=request_id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
            )
            for tensor in answer.outputs
        ],
        raw_output_contents=[tensor.data for tensor in answer.outputs],
    )
