"""The steps of the REST door as `application/octet-stream`: no numbers are written out as text.

All integers are 32 bits and all is little-endian; tensors hold their rows one behind the other.

    request                                       answer
    4 bytes  "UMX1"                               4 bytes  "UMX1"
    uint32   rows N                               uint32   rows N
    uint32   bytes of obs in a row (4 O)          uint32   bytes of next_hidden in a row
    uint32   bytes of avail_actions in a row (U)  uint32   bytes of q_values in a row (4 U, or 0)
    uint32   bytes of hidden in a row (or 0)      uint32   version
    uint32   version; 0: the newest               uint32   bytes of the model's name
    uint32   1: answer q_values too; else 0                the model's name
    uint32   bytes of the model's name (or 0)     int32    actions [N]
             the model's name, UTF-8                       next_hidden [N, H]
    int32    agent_ids [N] (POST /act alone)      float32  q_values [N, U], if asked for
    int32    last_actions [N]
    float32  obs [N, O]
    bool     avail_actions [N, U], a byte each
             hidden [N, H]

`last_actions` are -1 where there was none, -2 to leave it out. `hidden` is `next_hidden` of the
answer before, as it was: float32, or sealed; zeros for a row that is at its first step, and no
bytes at all if every row is. `POST /agents/{agent_id}/act` takes one row, and no session.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from serving import errors
from serving.access.entry import charge
from serving.models.agent_model import AgentModel, StepResult
from serving.steps.batcher import Caller
from serving.steps.service import Act, AgentService

OCTETS = "application/octet-stream"
MAGIC = b"UMX1"
LEFT_OUT = -2
"""A `last_action` that is not told."""
_REQUEST = struct.Struct("<4s7I")
_ANSWER = struct.Struct("<4s5I")


async def act_one(service: AgentService, agent_id: int, body: bytes, caller: Caller) -> bytes:
    """One agent's step. Raises: ServingError"""
    message = _Message.of(body)
    if message.n_rows != 1:
        raise errors.InvalidRequest("rows", f"there are {message.n_rows} rows; one is stepped here")
    (act,) = message.acts(body, [agent_id])
    model, result = await service.act(act, "rest", caller=caller)
    return _answer(model, [result], message.want_q_values)


async def act_many(service: AgentService, body: bytes, caller: Caller) -> bytes:
    """Many agents' steps: all, or none. Raises: ServingError; one row's fault names the row."""
    message = _Message.of(body)
    service.check_rows(message.n_rows)
    charge(message.n_rows - 1)  # the request itself has been counted
    model, results = await service.act_many(message.acts(body), "rest_team", caller=caller)
    return _answer(model, results, message.want_q_values)


class _Message(NamedTuple):
    """A request's head."""

    n_rows: int
    obs_size: int
    mask_size: int
    hidden_size: int
    version: int
    want: int
    name_size: int

    @classmethod
    def of(cls, body: bytes) -> _Message:
        """Raises: MalformedRequest"""
        if len(body) < _REQUEST.size or not body.startswith(MAGIC):
            raise errors.MalformedRequest(
                f"the body does not begin with the {_REQUEST.size} bytes of a UMX1 head"
            )
        return cls(*_REQUEST.unpack_from(body)[1:])

    @property
    def want_q_values(self) -> bool:
        """Raises: InvalidRequest"""
        if self.want > 1:
            raise errors.InvalidRequest("want", "want must be 0 or 1")
        return self.want == 1

    def acts(self, body: bytes, agent_ids: Sequence[int] | None = None) -> list[Act]:
        """The rows; their agents' ids are in the body, unless they are given.

        Raises:
            MalformedRequest, InvalidRequest
        """
        n, obs_size, mask_size, hidden_size = self[:4]
        words = n if agent_ids is not None else 2 * n
        size = _REQUEST.size + self.name_size + 4 * words + n * (obs_size + mask_size + hidden_size)
        if len(body) != size:
            raise errors.MalformedRequest(f"the head tells of {size} bytes; there are {len(body)}")
        _ = self.want_q_values
        if self.version >= 2**31:
            raise errors.InvalidRequest("version", "version must be a whole number from 1, or 0")
        start = _REQUEST.size + self.name_size
        try:
            name = body[_REQUEST.size : start].decode()
        except UnicodeDecodeError:
            raise errors.InvalidRequest("model", "model is not UTF-8") from None
        numbers = struct.unpack_from(f"<{words}i", body, start)
        start += 4 * words
        masks = start + n * obs_size
        memories = masks + n * mask_size
        no_memory = bytes(hidden_size)
        acts = []
        for row in range(n):
            hidden = body[memories + row * hidden_size : memories + (row + 1) * hidden_size]
            last_action = numbers[row - n]
            acts.append(
                Act(
                    numbers[row] if agent_ids is None else agent_ids[row],
                    body[start + row * obs_size : start + (row + 1) * obs_size],
                    body[masks + row * mask_size : masks + (row + 1) * mask_size],
                    None if last_action == LEFT_OUT else last_action,
                    b"" if hidden == no_memory else hidden,
                    name,
                    self.version,
                )
            )
        return acts


def _answer(model: AgentModel, results: Sequence[StepResult], want_q_values: bool) -> bytes:
    name = model.name.encode()
    q_size = len(results[0].q_values) if want_q_values else 0
    n = len(results)
    return b"".join(
        [
            _ANSWER.pack(MAGIC, n, len(results[0].next_hidden), q_size, model.version, len(name)),
            name,
            struct.pack(f"<{n}i", *[result.action for result in results]),
            *[result.next_hidden for result in results],
            *([result.q_values for result in results] if want_q_values else ()),
        ]
    )
