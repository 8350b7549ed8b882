"""The JSON messages of the REST door: what they hold, and how they are read strictly.

Unknown fields, wrong types, NaN and infinity are refused; what a refusal says never repeats the
caller's own text.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from serving import errors
from serving.models.manifest import MODEL_FILE
from serving.models.repository import ModelStatus

Want = Literal["next_hidden", "q_values"]
T = TypeVar("T")

Obs = Annotated[
    list[float], Meta(description="What the agent observes: obs_dim numbers in [-1e6, 1e6].")
]
AvailActions = Annotated[
    list[bool | int],
    Meta(description="Whether each action may be taken: n_actions times true/false or 1/0."),
]
NO_SEAL = b"\0"
"""Opens as no memory at all."""


class ActRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One step of one agent.

    Without `session` the caller carries the memory: no `hidden` at an episode's first step, then
    each answer's `next_hidden`. With `session` the service holds memory and last action.
    """

    obs: Obs
    avail_actions: AvailActions
    last_action: Annotated[
        int | None,
        Meta(
            description="The action taken in the step before; -1 at an episode's first step. "
            "Needed with `hidden`. With `session`, or a sealed `hidden`: only if it was not the "
            "action answered."
        ),
    ] = None
    hidden: Annotated[
        list[float] | str | None,
        Meta(
            description="`next_hidden` of the answer before, as it was: hidden_dim numbers in "
            "[-1, 1], or text where the service seals memories. Left out at an episode's first "
            "step, and with `session`."
        ),
    ] = None
    session: Annotated[
        str | None, Meta(description="A session from POST /sessions that holds the memory.")
    ] = None
    model: Annotated[
        str | None, Meta(description="Name of the model; by default the only one there is.")
    ] = None
    version: Annotated[
        int | None,
        Meta(
            description="Version of the model; by default the newest. An episode has to stay with "
            "one: with `hidden`, send the version that the first answer named."
        ),
    ] = None
    want: Annotated[
        list[Want],
        Meta(description="What to answer besides; `next_hidden` always comes without `session`."),
    ] = []


class ActAnswer(msgspec.Struct, omit_defaults=True, gc=False):
    """The decision."""

    action: Annotated[int, Meta(description="The best of the available actions.")]
    model: str
    version: int
    next_hidden: Annotated[
        list[float] | str | None,
        Meta(description="The memory to send as `hidden` in the next step."),
    ] = None
    q_values: Annotated[
        list[float] | None, Meta(description="The value of each action, available or not.")
    ] = None


class ResetRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Where an episode starts; everything may be left out."""

    model: Annotated[
        str | None, Meta(description="Name of the model; by default the only one there is.")
    ] = None
    version: Annotated[
        int | None, Meta(description="Version of the model; by default the newest.")
    ] = None
    hidden: Annotated[
        list[float] | str | None,
        Meta(description="A memory to resume from: a `next_hidden` as it was answered."),
    ] = None
    last_action: Annotated[
        int | None, Meta(description="The action taken in the step before; needed with `hidden`.")
    ] = None


class SessionRequest(ResetRequest, kw_only=True, forbid_unknown_fields=True):
    """A new session, for one unit."""

    agent_id: Annotated[int, Meta(description="The unit, from 0 to n_agents - 1.")]


class SessionAnswer(msgspec.Struct):
    """A session as it is now."""

    session: str
    agent_id: int
    model: str
    version: int
    ttl_s: Annotated[float, Meta(description="Seconds without a step until it is forgotten.")]


class ModelAnswer(msgspec.Struct, omit_defaults=True):
    """One version of one model."""

    name: str
    version: int
    state: Annotated[
        Literal["ready", "refused", "retiring"],
        Meta(description="retiring: only episodes that have begun on it are stepped."),
    ]
    latest: Annotated[
        bool, Meta(description="Whether an episode that names no version begins on this one.")
    ]
    reason: Annotated[str, Meta(description="Why it was refused.")] = ""
    map: str = ""
    environment: str = ""
    layout_sha256: str = ""
    algorithm: str = ""
    q_values_hold: str = ""
    dims: dict[str, int] = {}
    episode_limit: int = 0
    unit_types: list[str] = []
    win_rate: float | None = None
    sha256: str = ""


class ModelList(msgspec.Struct):
    """The repository."""

    models: list[ModelAnswer]


class FieldFault(msgspec.Struct):
    field: str
    message: str


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457. Never repeats what the caller sent."""

    type: Annotated[str, Meta(description="urn:unmix:problem: and the name of the error.")]
    title: str
    status: int
    detail: str
    errors: list[FieldFault] = []
    request_id: str = ""


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises: MalformedRequest, or InvalidRequest naming the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _schema_fault(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _malformed(body) from None


def _schema_fault(text: str) -> errors.InvalidRequest:
    """The decoder's words, less those that repeat the caller's."""
    text, _, path = text.partition(" - at `$")
    if text.startswith("Object contains unknown field"):
        text, path = "there is a field that this request does not have", ""
    elif text.startswith("Invalid enum value"):
        text = "must be one of next_hidden and q_values"
    field = path.strip(".`")
    return errors.InvalidRequest(field, f"{field}: {text}" if field else text)


def _malformed(body: bytes) -> errors.ServingError:
    """NaN and Infinity are no JSON, but Python's own encoder writes them: say where they are."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        rows = content.get("rows")
        for place, row in enumerate(rows if isinstance(rows, list) else ()):
            fault = _not_finite(row) if isinstance(row, dict) else None
            if fault is not None:
                return errors.in_row(place, fault)
        fault = _not_finite(content)
        if fault is not None:
            return fault
    return errors.MalformedRequest("the body is not JSON")


def _not_finite(content: dict[str, object]) -> errors.InvalidRequest | None:
    for field in ("obs", "hidden"):
        values = content.get(field)
        for index, value in enumerate(values if isinstance(values, list) else ()):
            if isinstance(value, float) and not math.isfinite(value):
                return errors.InvalidRequest(field, f"{field}[{index}] is not a finite number")
    return None


def pack_floats(field: str, values: list[float]) -> bytes:
    try:
        return struct.pack(f"<{len(values)}f", *values)
    except OverflowError:
        raise errors.InvalidRequest(field, f"{field} has a number too large for float32") from None


def pack_memory(values: list[float] | str | None, sealed: bool) -> bytes:
    """The memory as the service takes it; none, if there is none."""
    if values is None:
        return b""
    if not values:  # to the service no bytes mean "none", which is not what was sent
        raise errors.InvalidRequest("hidden", "hidden is empty; leave it out at the first step")
    if isinstance(values, str) is not sealed:
        kind = "the text that was answered" if sealed else "a list of numbers"
        raise errors.InvalidRequest("hidden", f"hidden must be {kind}")
    if not isinstance(values, str):
        return pack_floats("hidden", values)
    try:
        return base64.b64decode(values, altchars=b"-_", validate=True)
    except ValueError:
        return NO_SEAL  # for the service to refuse, in the words that it has for all such


def unpack_memory(memory: bytes, sealed: bool) -> list[float] | str:
    """A memory as JSON."""
    return base64.urlsafe_b64encode(memory).decode() if sealed else unpack_floats(memory)


def pack_mask(values: list[bool | int]) -> bytes:
    try:
        return bytes(values)
    except (ValueError, OverflowError):
        raise errors.InvalidRequest(
            "avail_actions", "avail_actions has values other than 0 and 1"
        ) from None


def checked_version(version: int | None) -> int:
    if version is None:
        return 0
    if not 1 <= version < 2**31:
        raise errors.InvalidRequest("version", "version must be a whole number from 1")
    return version


def unpack_floats(values: bytes) -> list[float]:
    """float32 values as JSON numbers that give the same float32 when read."""
    return list(struct.unpack(f"<{len(values) // 4}f", values))


def model_answer(status: ModelStatus) -> ModelAnswer:
    if status.model is None:
        return ModelAnswer(status.name, status.version, "refused", False, status.reason)
    manifest = status.model.manifest
    return ModelAnswer(
        status.name,
        status.version,
        "retiring" if status.retiring else "ready",
        status.latest,
        map=manifest.map,
        environment=manifest.environment.name,
        layout_sha256=manifest.environment.layout_sha256,
        algorithm=manifest.algorithm,
        q_values_hold=manifest.q_values,
        dims=manifest.dims.model_dump(),
        episode_limit=manifest.episode_limit,
        unit_types=[agent.unit_type for agent in manifest.agents],
        win_rate=manifest.training.win_rate,
        sha256=manifest.files[MODEL_FILE].sha256,
    )
