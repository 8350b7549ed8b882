"""The Open Inference Protocol, version 2, over the step service, without a word of HTTP or gRPC.

A request steps N agents whose memories the caller carries, or, with a sequence, one agent whose
memory the service holds: a sequence is an episode. Sequences live where the REST sessions do, under
the same caps, and are forgotten as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from serving.access.entry import charge, principal
from serving.errors import InvalidRequest, ModelNotFound, SessionNotFound
from serving.metrics import Door
from serving.steps.batcher import Caller
from serving.steps.inference_tensors import (
    InputRow,
    Spec,
    Tensor,
    check_wanted,
    count_rows,
    input_specs,
    output_specs,
    read_rows,
    write_results,
)
from serving.steps.service import ANYONE, Act, AgentService, Episode
from serving.steps.sessions import Sessions

NAME, VERSION = "unmix", "1"
EXTENSIONS = ("sequence", "sequence(string_id)", "binary_tensor_data")
PLATFORM = "onnxruntime_onnx"
MAX_SEQUENCE_ID = 128
"""Characters of a sequence's id, as in Triton."""


class SequenceStep(NamedTuple):
    """What a request says of the sequence it belongs to."""

    id: int | str = 0
    """0 or empty: it belongs to none."""
    start: bool = False
    end: bool = False


class InferRequest(NamedTuple):
    inputs: Sequence[Tensor]
    outputs: Sequence[str] = ()
    """None: those that a caller needs."""
    model: str = ""
    version: str = ""
    """Empty: the newest, or the sequence's own."""
    sequence: SequenceStep = SequenceStep()
    timeout_s: float | None = None
    """What the caller gives it; the service's limit holds besides."""


class InferAnswer(NamedTuple):
    model: str
    version: int
    outputs: list[Tensor]


class ModelTensors(NamedTuple):
    """What a client may know of a model."""

    name: str
    versions: list[str]
    inputs: list[Spec]
    outputs: list[Spec]


class _SequenceKey(NamedTuple):
    """Never equal to a REST session's id, which is a text: no one can reach one by the other."""

    client: str
    model: str
    id: int | str


class Inference:
    """What both doors of the protocol open onto."""

    def __init__(
        self, service: AgentService, sessions: Sessions, holds_sequences: bool = True
    ) -> None:
        self._service = service
        self._sessions = sessions
        self._holds_sequences = holds_sequences

    @property
    def ready(self) -> bool:
        return self._service.ready

    def check_model_ready(self, model: str, version: str) -> None:
        """Raises: ModelNotFound, ModelNotReady, ShuttingDown"""
        self._service.check_accepting()
        self._service.repository.resolve(model, read_version(version))

    def model(self, model: str, version: str) -> ModelTensors:
        """Raises: ModelNotFound, ModelNotReady"""
        found = self._service.repository.resolve(model, read_version(version))
        sealed = self._service.seals_memory
        versions = [
            str(other.version)
            for other in self._service.repository.models()
            if other.name == found.name
        ]
        return ModelTensors(
            found.name,
            sorted(versions, key=int),
            input_specs(found, sealed),
            output_specs(found, sealed),
        )

    async def infer(
        self, request: InferRequest, door: Door, host: str, caller: Caller = ANYONE
    ) -> InferAnswer:
        """Step the rows, all or none. Unless this returns, no memory has changed.

        Args:
            host: the caller's address. Whoever shows no credential is known by it.

        Raises:
            ServingError
        """
        if not request.sequence.id:
            if request.sequence.start or request.sequence.end:
                raise InvalidRequest("sequence_id", "sequence_id is needed to begin or end one")
            return await self._carried(request, door, caller)
        if not self._holds_sequences:
            raise InvalidRequest(
                "sequence_id",
                "sequence_id: several workers serve this port and the next request may reach "
                "another; carry the memory (hidden, next_hidden), or use gRPC",
            )
        return await self._held(request, door, _client(host), caller)

    async def _carried(self, request: InferRequest, door: Door, caller: Caller) -> InferAnswer:
        service, sealed = self._service, self._service.seals_memory
        begun = any(tensor.name == "hidden" for tensor in request.inputs)
        model = service.repository.resolve(request.model, read_version(request.version), begun)
        n = count_rows(request.inputs)
        service.check_rows(max(0, n))
        rows = read_rows(request.inputs, input_specs(model, sealed), n)
        outputs = output_specs(model, sealed)
        wanted = request.outputs or [spec.name for spec in outputs]
        check_wanted(wanted, outputs)
        charge(n - 1)  # the request itself has been counted
        acts = [_act(row, model.name, model.version) for row in rows]
        if n == 1:  # so that faults do not name a row
            answered, result = await service.act(acts[0], door, request.timeout_s, caller)
            results = [result]
        else:
            answered, results = await service.act_many(acts, door, request.timeout_s, caller)
        return InferAnswer(answered.name, answered.version, write_results(results, outputs, wanted))

    async def _held(
        self, request: InferRequest, door: Door, client: str, caller: Caller
    ) -> InferAnswer:
        sequence, sessions = request.sequence, self._sessions
        _check_id(sequence.id)
        key = _SequenceKey(client, request.model, sequence.id)
        if sequence.start:
            if not sequence.end and key not in sessions:
                sessions.check_room(client)
            episode, row = self._begin(request)
            last_action = None  # it is in the memory that the episode began with
        else:
            episode, row = self._continue(request, key)
            last_action = row.last_action
        outputs = output_specs(episode.model, self._service.seals_memory)
        wanted = request.outputs or ["action", "q_values"]
        check_wanted(wanted, outputs)
        result = await self._service.step(
            episode, row.obs, row.avail_actions, door, last_action, request.timeout_s, caller
        )
        if sequence.end:
            sessions.discard(key)
        elif sequence.start:
            sessions.put(key, episode, client)
        model = episode.model
        return InferAnswer(model.name, model.version, write_results([result], outputs, wanted))

    def _begin(self, request: InferRequest) -> tuple[Episode, InputRow]:
        """A new episode, or one that goes on from a memory that was sent."""
        begun = any(tensor.name == "hidden" for tensor in request.inputs)
        version = read_version(request.version)
        model = self._service.repository.resolve(request.model, version, begun)
        row = self._only_row(request, input_specs(model, self._service.seals_memory))
        episode = self._service.begin(
            _agent_id(row), model.name, model.version, row.hidden, row.last_action
        )
        return episode, row

    def _continue(self, request: InferRequest, key: _SequenceKey) -> tuple[Episode, InputRow]:
        try:
            episode = self._sessions.get(key)
        except SessionNotFound:
            raise SessionNotFound(
                "no such sequence of this caller: never begun with sequence_start, ended, or "
                "expired"
            ) from None
        model = episode.model
        if read_version(request.version) not in (0, model.version):
            raise InvalidRequest("model_version", f"the sequence is with {model.label}")
        row = self._only_row(request, input_specs(model, self._service.seals_memory))
        if row.agent_id not in (None, episode.agent_id):
            raise InvalidRequest("agent_id", "the sequence is another agent's")
        if row.hidden:
            raise InvalidRequest("hidden", "hidden is the sequence's; leave it out")
        return episode, row

    def _only_row(self, request: InferRequest, specs: Sequence[Spec]) -> InputRow:
        if count_rows(request.inputs) != 1:
            raise InvalidRequest("inputs", "a request of a sequence must have exactly one row")
        (row,) = read_rows(request.inputs, specs, 1)
        return row


def _check_id(sequence: int | str) -> None:
    """Ids are kept: they must not be of any size. Raises: InvalidRequest"""
    if isinstance(sequence, int) and not 0 <= sequence < 2**64:
        raise InvalidRequest("sequence_id", "sequence_id must be a whole number of 64 bits")
    if isinstance(sequence, str) and len(sequence) > MAX_SEQUENCE_ID:
        raise InvalidRequest(
            "sequence_id", f"sequence_id has more than {MAX_SEQUENCE_ID} characters"
        )


def read_version(version: str) -> int:
    """0 for none named. Raises: ModelNotFound"""
    if not version:
        return 0
    number = int(version) if version.isascii() and version.isdecimal() and len(version) < 10 else 0
    if not number:
        raise ModelNotFound("versions are whole numbers from 1")
    return number


def _act(row: InputRow, model: str, version: int) -> Act:
    return Act(
        _agent_id(row), row.obs, row.avail_actions, row.last_action, row.hidden, model, version
    )


def _agent_id(row: InputRow) -> int:
    if row.agent_id is None:
        raise InvalidRequest("agent_id", "agent_id is missing")
    return row.agent_id


def _client(host: str) -> str:
    """Whose a sequence is: its id means something to this caller alone."""
    asking = principal.get()
    return host if asking is None else asking.name
