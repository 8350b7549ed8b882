"""The core without doors: what makes sense, what a memory is, and what a drain does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.errors import (
    Abandoned,
    AgentNotFound,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RequestTooLarge,
    ServingError,
    SessionBusy,
    ShuttingDown,
)
from serving.metrics import Metrics
from serving.models.agent_model import AgentModel, Row, StepResult
from serving.models.repository import Repository
from serving.settings import Settings
from serving.steps.batcher import Caller
from serving.steps.memory import Memory
from serving.steps.service import Act, AgentService, Step
from tests.artifacts import Policy, write_artifact

OBS = np.linspace(-1, 1, 7, dtype="<f4").tobytes()
MASK = bytes([0, 1, 1, 0, 1])
HIDDEN = np.linspace(-1, 1, 6, dtype="<f4").tobytes()


def service_of(models: Path, **settings: Any) -> AgentService:
    repository = Repository(models)
    repository.load_all()
    return AgentService(repository, Metrics(), Settings(**settings))


@pytest.fixture
async def service(models: Path) -> AgentService:
    return service_of(models)


def serial(model: AgentModel, agent: int, last: int, hidden: bytes) -> StepResult:
    (result,) = model.step([Row(OBS, MASK, last, agent, hidden)])
    assert isinstance(result, StepResult)
    return result


async def test_a_first_step_starts_from_zeros_and_no_action(
    service: AgentService, model: AgentModel
) -> None:
    answered, result = await service.act(Act(1, OBS, MASK), "rest")
    assert answered.label == "tiny version 1"
    assert result == serial(model, 1, -1, bytes(24))


async def test_a_later_step_uses_what_it_is_given(service: AgentService, model: AgentModel) -> None:
    _, result = await service.act(Act(2, OBS, MASK, last_action=4, hidden=HIDDEN), "rest")
    assert result == serial(model, 2, 4, HIDDEN)
    assert result != serial(model, 2, 3, HIDDEN)


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"obs": OBS[4:]}, "obs", "obs has 6 values; tiny version 1 takes 7"),
        ({"obs": OBS + b"\0"}, "obs", "obs has 7.25 values; tiny version 1 takes 7"),
        ({"obs": b""}, "obs", "obs has 0 values"),
        ({"avail_actions": MASK[1:]}, "avail_actions", "avail_actions has 4 values;"),
        ({"avail_actions": bytes([0, 2, 1, 0, 1])}, "avail_actions", "other than 0 and 1"),
        ({"avail_actions": bytes(5)}, "avail_actions", "leaves no action to take"),
        ({"last_action": -2}, "last_action", "must be -1"),
        ({"last_action": 5}, "last_action", "to 4 for tiny version 1"),
        ({"hidden": HIDDEN, "last_action": None}, "last_action", "needed with hidden"),
        ({"hidden": HIDDEN[:-4], "last_action": 0}, "hidden", "hidden has 5 values;"),
        ({"obs": OBS[:-4] + b"\0\0\xc0\x7f"}, "obs", r"obs\[6\] is not a number"),
        ({"obs": OBS[:-4] + b"\0\0\x80\xff"}, "obs", r"obs\[6\] is not a number"),
        ({"hidden": b"\0\0\xc0\x7f" + HIDDEN[4:], "last_action": 0}, "hidden", r"hidden\[0\]"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_the_field_named(
    service: AgentService, change: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        await service.act(Act(0, OBS, MASK)._replace(**change), "rest")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"agent_id": 3}, AgentNotFound, "tiny version 1 has agents 0 to 2"),
        ({"agent_id": -1}, AgentNotFound, "has agents 0 to 2"),
        ({"model": "other"}, ModelNotFound, "no model of that name; there is tiny"),
        ({"version": 2}, ModelNotFound, "no version 2; there is 1"),
    ],
)
async def test_what_is_not_there_is_said(
    service: AgentService, change: dict[str, Any], error: type[ServingError], message: str
) -> None:
    with pytest.raises(error, match=message):
        await service.act(Act(0, OBS, MASK)._replace(**change), "rest")


async def test_a_held_episode_is_the_carried_one(service: AgentService, model: AgentModel) -> None:
    episode = service.begin(1)
    hidden, last = bytes(24), -1
    for _ in range(5):
        result = await service.step(episode, OBS, MASK, "rest")
        assert result == serial(model, 1, last, hidden)
        hidden, last = result.next_hidden, result.action
    result = await service.step(episode, OBS, MASK, "rest", last_action=0)
    assert result == serial(model, 1, 0, hidden)
    resumed = service.begin(1, hidden=result.next_hidden, last_action=result.action)
    assert await service.step(resumed, OBS, MASK, "rest") == await service.step(
        episode, OBS, MASK, "rest"
    )


async def test_a_refused_step_leaves_the_memory_alone(
    service: AgentService, model: AgentModel
) -> None:
    episode = service.begin(0)
    first = await service.step(episode, OBS, MASK, "rest")
    for bad in (b"", OBS[:-4] + b"\0\0\xc0\x7f", np.full(7, 1e38, "<f4").tobytes()):
        with pytest.raises(InvalidRequest):
            await service.step(episode, bad, MASK, "rest")
    assert await service.step(episode, OBS, MASK, "rest") == serial(
        model, 0, first.action, first.next_hidden
    )


async def test_an_episode_takes_one_step_at_a_time(service: AgentService) -> None:
    episode = service.begin(0)
    first = asyncio.ensure_future(service.step(episode, OBS, MASK, "rest"))
    await asyncio.sleep(0)
    with pytest.raises(SessionBusy):
        await service.step(episode, OBS, MASK, "rest")
    await first
    await service.step(episode, OBS, MASK, "rest")


async def test_beginning_checks_where_it_begins(service: AgentService) -> None:
    with pytest.raises(AgentNotFound):
        service.begin(3)
    with pytest.raises(ModelNotFound):
        service.begin(0, model="other")
    with pytest.raises(InvalidRequest, match="needed with hidden"):
        service.begin(0, hidden=HIDDEN)
    with pytest.raises(InvalidRequest, match="last_action must be"):
        service.begin(0, hidden=HIDDEN, last_action=9)


async def test_an_episode_keeps_the_version_it_began_with(tmp_path: Path) -> None:
    write_artifact(tmp_path, Policy(seed=1), version=1)
    service = service_of(tmp_path)
    old = service.begin(0)
    await service.step(old, OBS, MASK, "rest")
    write_artifact(tmp_path, Policy(seed=2), version=2)
    service.repository.load("tiny", 2)
    twin = service.begin(0, version=1)
    await service.step(twin, OBS, MASK, "rest")
    assert service.begin(0).model.version == 2
    assert (old.model.version, twin.model.version) == (1, 1)
    assert await service.step(old, OBS, MASK, "rest") == await service.step(twin, OBS, MASK, "rest")


async def test_rows_of_two_models_do_not_mix(tmp_path: Path) -> None:
    for version in (1, 2):
        write_artifact(tmp_path, Policy(seed=version), version=version)
    service = service_of(tmp_path)
    requests = [Act(0, OBS, MASK, version=1 + number % 2) for number in range(20)]
    answers = await asyncio.gather(*[service.act(request, "rest") for request in requests])
    assert [model.version for model, _ in answers] == [1, 2] * 10
    assert len({result for _, result in answers}) == 2
    assert answers[0][1] == (await service.act(requests[0], "rest"))[1]


async def test_late_steps_are_not_run(models: Path) -> None:
    service = service_of(models, step_timeout_s=1e-9)
    with pytest.raises(DeadlineExceeded):
        await service.act(Act(0, OBS, MASK), "rest")
    patient = service_of(models)
    with pytest.raises(DeadlineExceeded):
        await patient.act(Act(0, OBS, MASK), "rest", timeout_s=1e-9)


async def test_a_full_queue_refuses(models: Path) -> None:
    service = service_of(models, max_queue=2)
    answers = await asyncio.gather(
        *[service.act(Act(0, OBS, MASK), "rest", caller=Caller(who)) for who in range(5)],
        return_exceptions=True,
    )
    assert [isinstance(answer, Overloaded) for answer in answers] == [False] * 2 + [True] * 3


async def test_a_drain_finishes_what_runs_and_takes_nothing_new(service: AgentService) -> None:
    episode = service.begin(0)
    running = [asyncio.ensure_future(service.act(Act(0, OBS, MASK), "rest")) for _ in range(9)]
    await asyncio.sleep(0)
    assert service.ready
    service.drain()
    assert not service.ready
    for refused in (
        service.act(Act(0, OBS, MASK), "rest"),
        service.step(episode, OBS, MASK, "rest"),
    ):
        with pytest.raises(ShuttingDown):
            await refused
    with pytest.raises(ShuttingDown):
        service.begin(0)
    await service.drained()
    assert all(task.done() and not task.exception() for task in running)


async def test_a_cancelled_step_does_not_hold_up_the_drain(service: AgentService) -> None:
    task = asyncio.ensure_future(service.act(Act(0, OBS, MASK), "rest"))
    await asyncio.sleep(0)
    task.cancel()
    service.drain()
    await asyncio.wait_for(service.drained(), 5)


# Many rows at once


async def test_many_carried_rows_are_as_each_alone(service: AgentService) -> None:
    acts = [Act(0, OBS, MASK), Act(1, OBS, MASK, 4, HIDDEN), Act(2, OBS, MASK, 0)]
    alone = [(await service.act(act, "rest"))[1] for act in acts]
    answered, together = await service.act_many(acts, "rest_team")
    assert (answered.label, together) == ("tiny version 1", alone)
    assert service.metrics.requests["rest_team", "ok"] == 3


async def test_held_episodes_of_two_models_step_together_and_in_order(
    tmp_path: Path, policy: Policy
) -> None:
    write_artifact(tmp_path, policy)
    write_artifact(tmp_path, Policy(seed=1), name="other")
    service = service_of(tmp_path)
    names = ["tiny", "other", "other", "tiny", "other"]
    episodes = [service.begin(place % 3, name) for place, name in enumerate(names)]
    twins = [service.begin(place % 3, name) for place, name in enumerate(names)]
    for _ in range(3):
        together = await service.step_many(
            [Step(episode, OBS, MASK) for episode in episodes], "grpc_team"
        )
        assert together == [await service.step(twin, OBS, MASK, "grpc_stream") for twin in twins]
    assert [episode.memory for episode in episodes] == [twin.memory for twin in twins]
    assert together[0] != together[1]


async def test_one_bad_row_leaves_every_memory_as_it_was(service: AgentService) -> None:
    episodes = [service.begin(0) for _ in range(3)]
    bad = OBS[:-4] + b"\0\0\xc0\x7f"
    steps = [Step(episode, obs, MASK) for episode, obs in zip(episodes, (OBS, OBS, bad),
                                                              strict=True)]  # fmt: skip
    with pytest.raises(InvalidRequest, match=r"rows\[2\]: obs\[6\] is not") as caught:
        await service.step_many(steps, "grpc_team")
    assert caught.value.field == "rows[2].obs"
    for episode in episodes:
        assert (episode.memory, episode.busy) == (Memory(bytes(24), -1, 0), False)
    assert service.metrics.requests["grpc_team", "ok"] == 0


async def test_a_busy_episode_refuses_the_whole_message(service: AgentService) -> None:
    busy, other = service.begin(0), service.begin(1)
    running = asyncio.ensure_future(service.step(busy, OBS, MASK, "rest"))
    await asyncio.sleep(0)
    with pytest.raises(SessionBusy, match=r"rows\[1\]"):
        await service.step_many([Step(other, OBS, MASK), Step(busy, OBS, MASK)], "grpc_team")
    await running
    assert other.memory.last_action == -1
    assert len(await service.step_many([Step(busy, OBS, MASK)], "grpc_team")) == 1


@pytest.mark.parametrize(("settings", "limit"), [({"max_rows": 3}, 3), ({"max_queue": 2}, 2)])
async def test_a_message_has_so_many_rows_at_most(
    models: Path, settings: dict[str, int], limit: int
) -> None:
    service = service_of(models, **settings)
    _, results = await service.act_many([Act(0, OBS, MASK)] * limit, "rest_team")
    assert len(results) == limit
    words = f"there are {limit + 1} rows; one message takes at most {limit}"
    with pytest.raises(RequestTooLarge, match=words):
        await service.act_many([Act(0, OBS, MASK)] * (limit + 1), "rest_team")
    with pytest.raises(InvalidRequest, match="no rows"):
        await service.act_many([], "rest_team")


async def test_if_one_models_queue_is_full_the_other_model_does_not_run_either(
    tmp_path: Path, policy: Policy
) -> None:
    """Queues of four rows: three of `other` wait, so that two more do not fit."""
    write_artifact(tmp_path, policy)
    write_artifact(tmp_path, Policy(seed=1), name="other")
    service = service_of(tmp_path, max_queue=4)
    first = asyncio.gather(
        *[service.act(Act(0, OBS, MASK, model="other"), "rest", caller=Caller(who))
          for who in range(3)]
    )  # fmt: skip
    await asyncio.sleep(0)
    episodes = [service.begin(0, name) for name in ("tiny", "other", "other")]
    with pytest.raises(Overloaded):
        await service.step_many([Step(it, OBS, MASK) for it in episodes], "grpc_team")
    await first
    assert [entry.rows._sum for entry in service.metrics.models] == [3.0, 0.0]
    await asyncio.wait_for(service.drained(), 1)


async def test_a_step_whose_caller_has_left_is_not_run(service: AgentService) -> None:
    caller = Caller("")
    running = asyncio.ensure_future(service.act(Act(0, OBS, MASK), "rest", caller=caller))
    await asyncio.sleep(0)
    caller.gone = True
    with pytest.raises(Abandoned):
        await running
    assert [entry.rows._sum for entry in service.metrics.models] == [0.0]
