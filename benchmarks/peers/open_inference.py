"""One step as a request of the Open Inference Protocol (v2), which Triton and MLServer speak.

Source: https://github.com/kserve/open-inference-protocol, `open_inference_rest.yaml` and
`open_inference_grpc.proto`. The few messages needed are written out here by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

SERVICE = "/inference.GRPCInferenceService/"
DATATYPES = {"float32": "FP32", "bool": "BOOL", "int64": "INT64"}
Tensors = Mapping[str, npt.NDArray[np.generic]]


def as_json(tensors: Tensors) -> bytes:
    """The body of `POST /v2/models/NAME/infer`."""
    inputs = [
        {
            "name": name,
            "shape": list(values.shape),
            "datatype": DATATYPES[values.dtype.name],
            "data": values.reshape(-1).tolist(),
        }
        for name, values in tensors.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


def as_protobuf(model: str, tensors: Tensors, sequence: bytes = b"", start: bool = False) -> bytes:
    """A ModelInferRequest.

    Args:
        sequence: what names the episode; empty where the caller carries the memory.
        start: whether the episode begins.
    """
    parts = [_field(1, model.encode())]
    if sequence:
        parts += [
            _field(4, _field(1, b"sequence_id") + _field(2, _field(3, sequence))),
            _field(4, _field(1, b"sequence_start") + _field(2, bytes([1 << 3, start]))),
        ]
    for name, values in tensors.items():
        shape = b"".join(_varint(size) for size in values.shape)
        described = _field(1, name.encode()) + _field(2, DATATYPES[values.dtype.name].encode())
        parts.append(_field(5, described + _field(3, shape)))
    parts += [_field(7, values.tobytes()) for values in tensors.values()]
    return b"".join(parts)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])
