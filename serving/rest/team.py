"""`POST /act`: one step of many agents in one request, whose memories the caller carries."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from serving.access.entry import charge
from serving.errors import ServingError, in_row
from serving.models.agent_model import StepResult
from serving.rest.messages import (
    AvailActions,
    Obs,
    Want,
    checked_version,
    pack_floats,
    pack_mask,
    pack_memory,
    unpack_floats,
    unpack_memory,
)
from serving.steps.batcher import Caller
from serving.steps.service import Act, AgentService


class TeamRow(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One agent's step, as in POST /agents/{agent_id}/act."""

    agent_id: Annotated[int, Meta(description="The unit, from 0 to n_agents - 1.")]
    obs: Obs
    avail_actions: AvailActions
    last_action: Annotated[
        int | None,
        Meta(
            description="The action taken in the step before, or -1; needed with `hidden`, unless "
            "that is sealed."
        ),
    ] = None
    hidden: Annotated[
        list[float] | str | None,
        Meta(
            description="`next_hidden` of this agent's answer before, as it was: hidden_dim "
            "numbers in [-1, 1], or text where the service seals memories. Left out at an "
            "episode's first step."
        ),
    ] = None


class TeamRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One step of each of many agents, of one team or of several: all are stepped, or none."""

    rows: Annotated[list[TeamRow], Meta(description="The agents, in any order.")]
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
        list[Want], Meta(description="What to answer besides; `next_hidden` always comes.")
    ] = []


class TeamRowAnswer(msgspec.Struct, omit_defaults=True, gc=False):
    """One agent's decision."""

    action: Annotated[int, Meta(description="The best of the available actions.")]
    next_hidden: Annotated[
        list[float] | str, Meta(description="The memory to send as `hidden` in the next step.")
    ]
    q_values: Annotated[
        list[float] | None, Meta(description="The value of each action, available or not.")
    ] = None


class TeamAnswer(msgspec.Struct):
    """The decisions, in the order of the request's rows."""

    model: str
    version: int
    rows: list[TeamRowAnswer]


async def act_many(service: AgentService, request: TeamRequest, caller: Caller) -> TeamAnswer:
    """Raises: ServingError; one row's fault names the row."""
    service.check_rows(len(request.rows))
    charge(len(request.rows) - 1)  # the request itself has been counted
    model, version = request.model or "", checked_version(request.version)
    acts = []
    for place, row in enumerate(request.rows):
        try:
            acts.append(_act(row, model, version, service.seals_memory))
        except ServingError as error:
            raise in_row(place, error) from None
    answered, results = await service.act_many(acts, "rest_team", caller=caller)
    want_q_values = "q_values" in request.want
    rows = [_answer(result, want_q_values, service.seals_memory) for result in results]
    return TeamAnswer(answered.name, answered.version, rows)


def _act(row: TeamRow, model: str, version: int, sealed: bool) -> Act:
    return Act(
        row.agent_id,
        pack_floats("obs", row.obs),
        pack_mask(row.avail_actions),
        row.last_action,
        pack_memory(row.hidden, sealed),
        model,
        version,
    )


def _answer(result: StepResult, want_q_values: bool, sealed: bool) -> TeamRowAnswer:
    q_values = unpack_floats(result.q_values) if want_q_values else None
    return TeamRowAnswer(result.action, unpack_memory(result.next_hidden, sealed), q_values)
