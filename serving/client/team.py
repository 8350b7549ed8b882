"""The client of a whole team: many units behind one connection.

    with TeamUnits("grpc://localhost:50051/3s5z", agent_ids=range(8)) as units:
        units.begin_episode()
        actions = units.act(obs, avail_actions)  # [8, O], [8, U] -> [8]

For one program that drives many units, such as many battles played side by side: a step of all is
one message there and one back. Each unit still decides from its own observation and memory alone,
and gives the actions that it would behind a connection of its own, bit for bit. The address says
how: `grpc://` leaves the memories with the server, in one team stream; `http://` carries them here
and sends them along.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import numpy.typing as npt

from serving.client import (
    PolicyUrl,
    ServingClientError,
    _bool_bytes,
    _float_bytes,
    _grpc_channel,
    _grpc_error,
    _HttpConnection,
    _run,
    _Stream,
    _stub,
)
from serving.client.credentials import NOBODY, Credentials
from serving.pb.unmix.v1 import agent_service_pb2 as pb

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class TeamUnits:
    """As `serving.client.Units`, over one connection. A step is done for all units or for none."""

    def __init__(
        self,
        url: str,
        agent_ids: Sequence[int],
        timeout_s: float = 10.0,
        credentials: Credentials = NOBODY,
    ) -> None:
        """Nothing is sent before the first episode begins.

        Args:
            agent_ids: which agent each unit is; several may be the same, in several battles.
            timeout_s: how long one step may take.
            credentials: as of `serving.client.connect`.

        Raises:
            ValueError: as `serving.client.connect`.
        """
        parsed = PolicyUrl.parse(url)
        kind = _GrpcTeam if parsed.is_grpc else _HttpTeam

        async def connect() -> _Team:
            return kind(parsed, list(agent_ids), timeout_s, credentials)

        self._team = _run(connect())

    def begin_episode(self, which: Sequence[int] | None = None) -> None:
        """Begin an episode, at their next step, for the units at these places (all by default)."""
        self._team.fresh.update(self._places(which))

    def act(
        self,
        obs: npt.ArrayLike,
        avail_actions: npt.ArrayLike,
        which: Sequence[int] | None = None,
    ) -> npt.NDArray[np.int64]:
        """One step of the units at these places (all by default).

        Args:
            obs: [N, O] numbers, a row for each of the N units named.
            avail_actions: [N, U] truth values.

        Returns:
            [N] actions.

        Raises:
            ServingClientError: nothing was stepped; the message names the row at fault.
        """
        places = self._places(which)
        own, masks = np.asarray(obs, np.float32), np.asarray(avail_actions, np.bool_)
        if not len(places) == len(own) == len(masks):
            raise ValueError(f"{len(own)} observations and {len(masks)} masks "
                             f"for {len(places)} units")  # fmt: skip
        return np.array(_run(self._team.act(places, own, masks)), np.int64)

    def close(self) -> None:
        _run(self._team.close())

    def __len__(self) -> int:
        return len(self._team.agent_ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _places(self, which: Sequence[int] | None) -> list[int]:
        every = range(len(self))
        return list(every) if which is None else [every[place] for place in which]


class _Team(ABC):
    def __init__(self, url: PolicyUrl, agent_ids: list[int]) -> None:
        self.url, self.agent_ids = url, agent_ids
        self.fresh = set(range(len(agent_ids)))
        """Units whose next step is an episode's first."""

    @abstractmethod
    async def act(
        self, places: list[int], obs: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]
    ) -> list[int]: ...

    @abstractmethod
    async def close(self) -> None: ...


class _GrpcTeam(_Team):
    """The stream holds the memories."""

    def __init__(
        self, url: PolicyUrl, agent_ids: list[int], timeout_s: float, credentials: Credentials
    ) -> None:
        super().__init__(url, agent_ids)
        metadata = credentials.metadata(url.host, url.is_secure)
        self._channel = _grpc_channel(url, credentials)
        open_call = functools.partial(_stub(self._channel).TeamStream, metadata=metadata)
        self._stream = _Stream(open_call, timeout_s)
        self._sequence = 0

    async def act(
        self, places: list[int], obs: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]
    ) -> list[int]:
        self._sequence += 1
        fresh = [place for place in places if place in self.fresh]
        request = pb.TeamStreamRequest(
            units=places,
            obs=_float_bytes(obs),
            avail_actions=_bool_bytes(masks),
            sequence=self._sequence,
        )
        if fresh:
            agents = [self.agent_ids[place] for place in fresh]
            request.begin.CopyFrom(
                pb.TeamBegin(
                    model=self.url.model, version=self.url.version, units=fresh, agent_ids=agents
                )
            )
        if len(fresh) < len(places) and not self._stream.is_open:
            raise ServingClientError("UNREACHABLE", "the stream is lost, and its memories too")
        answer: pb.TeamStreamResponse = await self._stream.exchange(request)
        if answer.HasField("fault"):
            code = _CODES.get(answer.fault.code, grpc.StatusCode.UNKNOWN)
            raise _grpc_error(code, answer.fault.message)
        if answer.sequence != self._sequence:
            raise ServingClientError("INTERNAL", "the answer is another request's")
        self.fresh.difference_update(fresh)
        return list(answer.actions)

    async def close(self) -> None:
        await self._stream.close()
        await self._channel.close()


class _HttpTeam(_Team):
    """The memories are here, and each unit's goes along with its row."""

    def __init__(
        self, url: PolicyUrl, agent_ids: list[int], timeout_s: float, credentials: Credentials
    ) -> None:
        super().__init__(url, agent_ids)
        self._http = _HttpConnection(url, timeout_s, credentials)
        self._memories: dict[int, dict[str, Any]] = {}
        self._versions: dict[int, int] = {}
        """Which version each unit's episode is with."""

    async def act(
        self, places: list[int], obs: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]
    ) -> list[int]:
        """One request, or one for each model version where episodes began on several."""
        by_version: dict[int, list[int]] = {}
        for index, place in enumerate(places):
            version = self.url.version if place in self.fresh else self._versions[place]
            by_version.setdefault(version, []).append(index)
        answers = [
            (indices, await self._ask(version, indices, places, obs, masks))
            for version, indices in by_version.items()
        ]
        actions = [0] * len(places)
        for indices, answer in answers:
            for index, row in zip(indices, answer["rows"], strict=True):
                place, actions[index] = places[index], row["action"]
                self._memories[place] = {"hidden": row["next_hidden"], "last_action": row["action"]}
                self._versions[place] = answer["version"]
                self.fresh.discard(place)
        return actions

    async def _ask(
        self,
        version: int,
        indices: list[int],
        places: list[int],
        obs: npt.NDArray[np.float32],
        masks: npt.NDArray[np.bool_],
    ) -> Any:
        """The answer for the rows of these indices."""
        rows = []
        for index in indices:
            place = places[index]
            row = {
                "agent_id": self.agent_ids[place],
                "obs": obs[index].tolist(),
                "avail_actions": masks[index].tolist(),
            }
            # JSON numbers are doubles, which hold every float32 exactly.
            rows.append(row if place in self.fresh else row | self._memories[place])
        where = {"model": self.url.model, "version": version}
        body = {"rows": rows} | {name: value for name, value in where.items() if value}
        return await self._http.call("POST", "/act", body)

    async def close(self) -> None:
        await self._http.close()
