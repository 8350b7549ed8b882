"""One `TeamStream`: many units that one client drives, by the numbers it gave them.

A message's tensors hold all its rows one behind the other. Either everything in it is done, or
nothing is: what it begins counts only once its steps have run.

Dimensions: N rows · M episodes begun.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from serving.access.entry import charge
from serving.errors import InvalidRequest, ServingError, in_row
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.rpc.stream_places import StreamPlaces
from serving.steps.batcher import Caller
from serving.steps.service import AgentService, Episode, Step


class TeamStream:
    """The units of one stream. One request at a time."""

    def __init__(
        self, service: AgentService, places: StreamPlaces, client: str, caller: Caller
    ) -> None:
        """The stream's own place is taken already; it is its first unit's."""
        self._service = service
        self._places, self._client = places, client
        self._caller = caller
        self._episodes: dict[int, Episode] = {}

    async def answer(
        self, request: pb.TeamStreamRequest, timeout_s: float | None
    ) -> pb.TeamStreamResponse:
        """Begin what is to be begun, then step. Raises: ServingError"""
        answer = pb.TeamStreamResponse(sequence=request.sequence)
        begun: dict[int, Episode] = {}
        if request.HasField("begin"):
            begun = self._begin(request.begin)
            model = next(iter(begun.values())).model
            answer.model, answer.version = model.name, model.version
        n_more = self._take_places(begun)
        try:
            if request.units or request.obs or request.avail_actions or not begun:
                await self._step(request, begun, answer, timeout_s)
        except BaseException:
            self._places.give_back(self._client, n_more)
            raise
        self._episodes |= begun
        return answer

    def close(self) -> None:
        """Give the units' places back, but for the stream's own."""
        self._places.give_back(self._client, max(0, len(self._episodes) - 1))
        self._episodes.clear()

    def _begin(self, begin: pb.TeamBegin) -> dict[int, Episode]:
        """The new episodes, by unit."""
        n = len(begin.units)
        if not n:
            raise InvalidRequest("begin.units", "begin names no units")
        self._service.check_rows(n)
        _check_distinct("begin.units", begin.units)
        _check_count("begin.agent_ids", len(begin.agent_ids), n)
        memories = _rows("begin.hidden", begin.hidden, n) if begin.hidden else [b""] * n
        last_actions = _optional("begin.last_actions", begin.last_actions, n)
        begun = {}
        for place, (unit, agent_id, hidden, last_action) in enumerate(
            zip(begin.units, begin.agent_ids, memories, last_actions, strict=True)
        ):
            try:
                begun[unit] = self._service.begin(
                    agent_id, begin.model, begin.version, hidden, last_action
                )
            except ServingError as error:
                raise in_row(place, error, "begin") from None
        return begun

    async def _step(
        self,
        request: pb.TeamStreamRequest,
        begun: dict[int, Episode],
        answer: pb.TeamStreamResponse,
        timeout_s: float | None,
    ) -> None:
        n = len(request.units)
        self._service.check_rows(n)
        _check_distinct("units", request.units)
        charge(n - 1)  # the message itself has been counted
        steps = [
            Step(*row)
            for row in zip(
                self._episodes_of(request.units, begun),
                _rows("obs", request.obs, n),
                _rows("avail_actions", request.avail_actions, n),
                _optional("last_actions", request.last_actions, n),
                strict=True,
            )
        ]
        results = await self._service.step_many(steps, "grpc_team", timeout_s, self._caller)
        answer.actions.extend([result.action for result in results])
        if request.want_next_hidden:
            answer.next_hidden = b"".join([result.next_hidden for result in results])
        if request.want_q_values:
            answer.q_values = b"".join([result.q_values for result in results])

    def _episodes_of(self, units: Iterable[int], begun: dict[int, Episode]) -> list[Episode]:
        episodes = []
        for place, unit in enumerate(units):
            episode = begun.get(unit) or self._episodes.get(unit)
            if episode is None:
                unknown = InvalidRequest("units", "no episode of this unit has begun")
                raise in_row(place, unknown)
            episodes.append(episode)
        return episodes

    def _take_places(self, begun: dict[int, Episode]) -> int:
        """How many places these episodes take beyond those that the stream has.

        Raises: Overloaded
        """
        n_held = len(self._episodes)
        n_new = len(begun.keys() - self._episodes.keys())
        n_more = max(1, n_held + n_new) - max(1, n_held)
        self._places.take(self._client, n_more)
        return n_more


def _rows(field: str, data: bytes, n: int) -> list[bytes]:
    """The N rows of a tensor; whether they are as long as the model's, the service checks."""
    size, rest = divmod(len(data), n)
    if rest:
        raise InvalidRequest(field, f"{field} has {len(data)} bytes, which are not {n} equal rows")
    return [data[place * size : (place + 1) * size] for place in range(n)]


def _optional(field: str, values: Sequence[int], n: int) -> Sequence[int | None]:
    if not values:
        return [None] * n
    _check_count(field, len(values), n)
    return values


def _check_count(field: str, count: int, n: int) -> None:
    if count != n:
        raise InvalidRequest(field, f"{field} has {count} values for {n} units")


def _check_distinct(field: str, units: Sequence[int]) -> None:
    if len(set(units)) < len(units):
        raise InvalidRequest(field, f"{field} has a unit more than once")
