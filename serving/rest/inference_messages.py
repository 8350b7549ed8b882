"""The bodies of `POST /v2/models/.../infer`: JSON, and the bytes that may follow it.

With `Inference-Header-Content-Length` the body is that many bytes of JSON, then the bytes of each
input that has a `binary_data_size`, in the inputs' order. Answers are made alike.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from serving.errors import InvalidRequest, MalformedRequest
from serving.rest.api import JSON, Headers
from serving.rest.messages import decode, pack_floats, pack_mask, unpack_floats
from serving.steps.inference import InferAnswer, InferRequest, SequenceStep
from serving.steps.inference_tensors import SIZES, Tensor, read_bytes, write_bytes

HEADER_LENGTH = b"inference-header-content-length"
_US = 1_000_000

Number = float | int | bool | str
Data = list[list[Number] | Number]
"""Row by row, or all rows one behind the other."""


class TensorParameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    binary_data_size: Annotated[int, Meta(ge=0)] | None = None


class InputTensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    datatype: str
    shape: list[int]
    parameters: TensorParameters = TensorParameters()
    data: Data | None = None


class OutputParameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    binary_data: bool | None = None
    classification: int = 0


class WantedOutput(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: OutputParameters = OutputParameters()


class Parameters(msgspec.Struct, frozen=True):
    """Others may be there: they are for servers that know them."""

    sequence_id: Annotated[int, Meta(ge=0)] | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    timeout: Annotated[int, Meta(ge=0)] = 0
    """Microseconds; 0: the service's own limit alone."""
    binary_data_output: bool = False


class InferBody(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[InputTensor]
    outputs: list[WantedOutput] = []
    parameters: Parameters = Parameters()
    id: str = ""


class RestInfer(NamedTuple):
    """A request, and how its answer is to be written."""

    request: InferRequest
    id: str
    binary: dict[str, bool]
    """Of each output, whether its bytes follow the JSON."""
    binary_by_default: bool


_decoder = msgspec.json.Decoder(InferBody)
_encode = msgspec.json.Encoder().encode


def read_infer(body: bytes, header_length: bytes | None, model: str, version: str) -> RestInfer:
    """Raises: MalformedRequest, InvalidRequest"""
    length = len(body) if header_length is None else _length(header_length, len(body))
    read = decode(_decoder, body[:length])
    given = read.parameters
    request = InferRequest(
        _read_inputs(read.inputs, body[length:]),
        [output.name for output in read.outputs],
        model,
        version,
        SequenceStep(given.sequence_id, given.sequence_start, given.sequence_end),
        given.timeout / _US if given.timeout else None,
    )
    if any(output.parameters.classification for output in read.outputs):
        raise InvalidRequest("outputs", "classification is not offered")
    binary = {
        output.name: output.parameters.binary_data
        for output in read.outputs
        if output.parameters.binary_data is not None
    }
    return RestInfer(request, read.id, binary, given.binary_data_output)


def _length(text: bytes, size: int) -> int:
    length = int(text) if text.isdigit() and len(text) < 10 else -1
    if not 0 <= length <= size:
        raise MalformedRequest(
            f"Inference-Header-Content-Length must be a number from 0 to the body's {size} bytes"
        )
    return length


def _read_inputs(inputs: list[InputTensor], binary: bytes) -> list[Tensor]:
    tensors, start = [], 0
    for place, tensor in enumerate(inputs):
        size = tensor.parameters.binary_data_size
        if (size is None) is (tensor.data is None):
            raise InvalidRequest(
                f"inputs[{place}]", f"inputs[{place}] must have either data or binary_data_size"
            )
        if tensor.data is not None:
            data = _pack(f"inputs[{place}].data", tensor.datatype, tensor.data)
        else:
            assert size is not None
            data = binary[start : start + size]
            start += size
        tensors.append(Tensor(tensor.name, tensor.datatype, tensor.shape, data))
    if start != len(binary):
        raise InvalidRequest(
            "inputs", f"{len(binary)} bytes follow the JSON, and the inputs ask for {start}"
        )
    return tensors


def _pack(field: str, datatype: str, data: Data) -> bytes:
    flat: list[Any] = []
    for value in data:
        flat += value if isinstance(value, list) else [value]
    kinds: dict[str, tuple[type, ...]] = {
        "FP32": (float, int), "INT64": (int,), "BOOL": (bool, int), "BYTES": (str,),
    }  # fmt: skip
    if datatype not in kinds:
        raise InvalidRequest(field, f"datatype must be one of {', '.join(kinds)}")
    fits = kinds[datatype]
    if not all(type(it) in fits for it in flat):  # a bool is an int, but not the same type
        raise InvalidRequest(field, f"{field} has values that are not {datatype}")
    if datatype == "FP32":
        return pack_floats(field, flat)
    if datatype == "BOOL":
        return pack_mask(flat)
    if datatype == "BYTES":
        return write_bytes([it.encode() for it in flat])
    try:
        return struct.pack(f"<{len(flat)}q", *flat)
    except struct.error:
        raise InvalidRequest(field, f"{field} has a number too large for INT64") from None


def write_infer(answer: InferAnswer, infer: RestInfer) -> tuple[Headers, bytes]:
    """(headers, body) of the answer."""
    outputs, pieces = [], []
    for tensor in answer.outputs:
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if infer.binary.get(tensor.name, infer.binary_by_default):
            output["parameters"] = {"binary_data_size": len(tensor.data)}
            pieces.append(tensor.data)
        else:
            output["data"] = _unpack(tensor)
        outputs.append(output)
    content: dict[str, Any] = {"model_name": answer.model, "model_version": str(answer.version)}
    if infer.id:
        content["id"] = infer.id
    head = _encode(content | {"outputs": outputs})
    if not pieces:
        return [(b"content-type", JSON.encode())], head
    headers = [
        (b"content-type", b"application/octet-stream"),
        (HEADER_LENGTH, b"%d" % len(head)),
    ]
    return headers, b"".join([head, *pieces])


def _unpack(tensor: Tensor) -> list[Any]:
    if tensor.datatype == "FP32":
        return unpack_floats(tensor.data)
    if tensor.datatype == "BYTES":
        n = tensor.shape[0]
        return [element.decode() for element in read_bytes(tensor.name, tensor.data, n)]
    return list(struct.unpack(f"<{len(tensor.data) // SIZES['INT64']}q", tensor.data))
