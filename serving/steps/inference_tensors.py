"""A model's tensors as the Open Inference Protocol names them, and how rows are made of them.

Every tensor is here in the protocol's raw form: little-endian, row-major; of BYTES each element
after its length as uint32.

Dimensions: N rows · O obs_dim · U n_actions · H hidden_dim.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import NamedTuple

from serving.errors import InvalidRequest
from serving.models.agent_model import AgentModel, StepResult

SIZES = {"FP32": 4, "INT64": 8, "BOOL": 1}
"""Bytes of a number. BYTES, the only other datatype, is for sealed memories."""
_NO_SEAL = b"\0"
"""Opens as no memory at all."""


class Tensor(NamedTuple):
    name: str
    datatype: str
    shape: Sequence[int]
    data: bytes


class Spec(NamedTuple):
    """A tensor [N, width] that a model takes or gives."""

    name: str
    datatype: str
    width: int


class InputRow(NamedTuple):
    """One row of what was sent; None for the tensors that were not."""

    obs: bytes
    """float32 [O]."""
    avail_actions: bytes
    """bool [U]."""
    agent_id: int | None
    last_action: int | None
    hidden: bytes
    """float32 [H], or its seal; empty for none."""


def input_specs(model: AgentModel, sealed: bool) -> list[Spec]:
    """The ONNX file's inputs, its vectors [N] as [N, 1], which is how Triton describes them."""
    return [
        Spec("obs", "FP32", model.obs_bytes // 4),
        Spec("avail_actions", "BOOL", model.n_actions),
        Spec("last_action", "INT64", 1),
        Spec("agent_id", "INT64", 1),
        _memory("hidden", model, sealed),
    ]


def output_specs(model: AgentModel, sealed: bool) -> list[Spec]:
    return [
        Spec("action", "INT64", 1),
        Spec("q_values", "FP32", model.n_actions),
        _memory("next_hidden", model, sealed),
    ]


def _memory(name: str, model: AgentModel, sealed: bool) -> Spec:
    return Spec(name, "BYTES", 1) if sealed else Spec(name, "FP32", model.hidden_bytes // 4)


def count_rows(tensors: Sequence[Tensor]) -> int:
    """N, by the first tensor; that the others agree, `read_rows` checks. Raises: InvalidRequest"""
    if not tensors or not tensors[0].shape:
        raise InvalidRequest("inputs", "there are no inputs with rows")
    return tensors[0].shape[0]


def read_rows(tensors: Sequence[Tensor], specs: Sequence[Spec], n: int) -> list[InputRow]:
    """The N rows, N at least 1. Whether values make sense, the service checks.

    Raises:
        InvalidRequest: naming the input.
    """
    known = {spec.name: spec for spec in specs}
    columns: dict[str, list[bytes]] = {}
    for tensor in tensors:
        spec = known.get(tensor.name)
        if spec is None:
            raise InvalidRequest(
                "inputs", f"there is an input that the model does not have; it has {_names(specs)}"
            )
        if tensor.name in columns:
            raise InvalidRequest(spec.name, f"{spec.name} is there more than once")
        _check(tensor, spec, n)
        columns[spec.name] = _split(tensor, spec, n)
    for name in ("obs", "avail_actions"):
        if name not in columns:
            raise InvalidRequest(name, f"{name} is missing")
    agent_ids, last_actions = (
        [None] * n if name not in columns else [int.from_bytes(it, "little", signed=True)
                                                for it in columns[name]]
        for name in ("agent_id", "last_action")
    )  # fmt: skip
    hidden = columns.get("hidden", [b""] * n)
    rows = zip(
        columns["obs"], columns["avail_actions"], agent_ids, last_actions, hidden, strict=True
    )
    return [InputRow(*row) for row in rows]


def _check(tensor: Tensor, spec: Spec, n: int) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(spec.name, f"{spec.name} must have datatype {spec.datatype}")
    if list(tensor.shape) != [n, spec.width] and not (
        spec.width == 1 and list(tensor.shape) == [n]
    ):
        raise InvalidRequest(
            spec.name, f"{spec.name} must have shape [N, {spec.width}], with the same N as the rest"
        )
    size = n * spec.width * SIZES.get(spec.datatype, 0)
    if size and len(tensor.data) != size:
        raise InvalidRequest(
            spec.name, f"{spec.name} has {len(tensor.data)} bytes; its shape asks for {size}"
        )


def _split(tensor: Tensor, spec: Spec, n: int) -> list[bytes]:
    data = tensor.data
    if spec.datatype == "BYTES":
        return [_unsealed(token) for token in read_bytes(spec.name, data, n)]
    size = spec.width * SIZES[spec.datatype]
    return [data[place * size : (place + 1) * size] for place in range(n)]


def read_bytes(name: str, data: bytes, n: int) -> list[bytes]:
    """The N elements of a BYTES tensor. Raises: InvalidRequest"""
    elements: list[bytes] = []
    start = 0
    while start < len(data) and len(elements) < n:
        size = int.from_bytes(data[start : start + 4], "little")
        elements.append(data[start + 4 : start + 4 + size])
        start += 4 + size
    if len(elements) != n or start != len(data):
        raise InvalidRequest(name, f"{name} does not hold {n} elements, each after its length")
    return elements


def write_bytes(elements: Sequence[bytes]) -> bytes:
    """A BYTES tensor in its raw form."""
    return b"".join(len(it).to_bytes(4, "little") + it for it in elements)


def _unsealed(text: bytes) -> bytes:
    """The seal that a memory's text stands for."""
    if not text:  # to the service no bytes mean "none", which is not what was sent
        raise InvalidRequest("hidden", "hidden is empty; leave it out at the first step")
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True) or _NO_SEAL
    except ValueError:
        return _NO_SEAL  # for the service to refuse, in the words that it has for all such


def write_results(
    results: Sequence[StepResult], specs: Sequence[Spec], wanted: Sequence[str]
) -> list[Tensor]:
    """The outputs asked for, in that order."""
    by_name = {spec.name: spec for spec in specs}
    tensors = []
    for name in wanted:
        spec = by_name[name]
        shape = [len(results), spec.width]
        tensors.append(Tensor(name, spec.datatype, shape, _column(results, spec)))
    return tensors


def _column(results: Sequence[StepResult], spec: Spec) -> bytes:
    if spec.name == "action":
        return struct.pack(f"<{len(results)}q", *[result.action for result in results])
    if spec.name == "q_values":
        return b"".join([result.q_values for result in results])
    memories = [result.next_hidden for result in results]
    if spec.datatype == "BYTES":
        return write_bytes([base64.urlsafe_b64encode(memory) for memory in memories])
    return b"".join(memories)


def check_wanted(wanted: Sequence[str], specs: Sequence[Spec]) -> None:
    """Raises: InvalidRequest: an output that the model does not have, or one twice."""
    if not set(wanted) <= {spec.name for spec in specs}:
        raise InvalidRequest(
            "outputs", f"there is an output that the model does not have; it has {_names(specs)}"
        )
    if len(set(wanted)) < len(wanted):
        raise InvalidRequest("outputs", "there is an output more than once")


def _names(specs: Sequence[Spec]) -> str:
    return ", ".join(spec.name for spec in specs)
