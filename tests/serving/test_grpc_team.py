"""`TeamStream` over the wire: single rows' answers, all or nothing, and a stream that goes on."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import pytest

from serving.models.agent_model import AgentModel, Row, StepResult
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc
from tests.serving.running import RunningServer

N_UNITS = 12
UNITS = [7 * number for number in range(N_UNITS)]
AGENTS = [number % 3 for number in range(N_UNITS)]
NAN = np.float32(np.nan)
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class TeamCall:
    """A team stream, one answer for each request."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._requests: queue.SimpleQueue[pb.TeamStreamRequest | None] = queue.SimpleQueue()
        stub: Any = pb_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
        self.call = stub.TeamStream(iter(self._requests.get, None), timeout=20)

    def __call__(self, **fields: Any) -> pb.TeamStreamResponse:
        self._requests.put(pb.TeamStreamRequest(**fields))
        answer: pb.TeamStreamResponse = next(self.call)
        return answer

    def end(self) -> grpc.StatusCode:
        self._requests.put(None)
        assert list(self.call) == []
        code: grpc.StatusCode = self.call.code()
        return code


@pytest.fixture
def team(channel: grpc.Channel) -> Iterator[TeamCall]:
    call = TeamCall(channel)
    yield call
    call.call.cancel()


@pytest.fixture
def strict_channel(strict_server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(strict_server.grpc) as channel:
        yield channel


def begin(units: list[int] = UNITS, agents: list[int] = AGENTS, **fields: Any) -> pb.TeamBegin:
    return pb.TeamBegin(units=units, agent_ids=agents, **fields)


def tensors(seed: int, n: int = N_UNITS) -> tuple[Floats, Bools]:
    random = np.random.default_rng(seed)
    obs = random.uniform(-1, 1, (n, 7)).astype("<f4")
    masks = random.random((n, 5)) < 0.6
    masks[:, 1] = True
    return obs, masks


def rows(units: list[int], obs: Floats, masks: Bools, **fields: Any) -> dict[str, Any]:
    return {"units": units, "obs": obs.tobytes(), "avail_actions": masks.tobytes()} | fields


class Twin:
    """The same units, one at a time, by the model itself."""

    def __init__(self, model: AgentModel) -> None:
        self._model = model
        self.memory = dict.fromkeys(UNITS, (model.first_hidden, -1))

    def step(
        self, units: list[int], obs: Floats, masks: Bools, last_actions: list[int] | None = None
    ) -> list[StepResult]:
        results = []
        for place, unit in enumerate(units):
            hidden, last = self.memory[unit]
            if last_actions is not None:
                last = last_actions[place]
            row = Row(obs[place].tobytes(), masks[place].tobytes(), last, AGENTS[UNITS.index(unit)],
                      hidden)  # fmt: skip
            (result,) = self._model.step([row])
            assert isinstance(result, StepResult)
            self.memory[unit] = result.next_hidden, result.action
            results.append(result)
        return results


def expect(answer: pb.TeamStreamResponse, results: list[StepResult]) -> None:
    assert not answer.HasField("fault"), answer.fault
    assert list(answer.actions) == [result.action for result in results]
    assert answer.next_hidden == b"".join(result.next_hidden for result in results)
    assert answer.q_values == b"".join(result.q_values for result in results)


WANT = {"want_next_hidden": True, "want_q_values": True}


def test_a_team_gets_the_answers_of_single_rows(team: TeamCall, model: AgentModel) -> None:
    twin = Twin(model)
    random = np.random.default_rng(3)
    for number in range(10):
        # From the second step on some of them only, in another order each time.
        some = UNITS if number == 0 else random.permutation(UNITS)[: 3 + number % 5].tolist()
        obs, masks = tensors(number, len(some))
        given = {"last_actions": [4] * len(some)} if number == 6 else {}
        first = {"begin": begin()} if number == 0 else {}
        answer = team(**rows(some, obs, masks, sequence=number, **WANT, **given, **first))
        expect(answer, twin.step(some, obs, masks, given.get("last_actions")))
        assert answer.sequence == number
        assert (answer.model, answer.version) == (("tiny", 1) if first else ("", 0))
    obs, masks = tensors(99)
    assert team(**rows(UNITS, obs, masks)).next_hidden == b""
    assert team.end() == grpc.StatusCode.OK


def test_an_episode_begins_anew_for_the_units_named(team: TeamCall, model: AgentModel) -> None:
    twin = Twin(model)
    obs, masks = tensors(0)
    expect(team(**rows(UNITS, obs, masks, begin=begin(), **WANT)), twin.step(UNITS, obs, masks))
    some = UNITS[2:5]
    twin.memory.update(dict.fromkeys(some, (model.first_hidden, -1)))
    begun = team(begin=begin(some, AGENTS[2:5]), sequence=5)
    assert begun == pb.TeamStreamResponse(model="tiny", version=1, sequence=5)
    expect(team(**rows(UNITS, obs, masks, **WANT)), twin.step(UNITS, obs, masks))


def test_a_team_resumes_where_another_broke(channel: grpc.Channel, model: AgentModel) -> None:
    twin = Twin(model)
    obs, masks = tensors(0)
    first = TeamCall(channel)
    last = first(**rows(UNITS, obs, masks, begin=begin(), **WANT))
    twin.step(UNITS, obs, masks)
    first.call.cancel()
    second = TeamCall(channel)
    resumed = begin(version=1, hidden=last.next_hidden, last_actions=last.actions)
    answer = second(**rows(UNITS, obs, masks, begin=resumed, **WANT))
    expect(answer, twin.step(UNITS, obs, masks))
    assert second.end() == grpc.StatusCode.OK


OBS, MASKS = tensors(1)
BAD_OBS = OBS.copy()
BAD_OBS[3, 2] = NAN
NO_ACTION = MASKS.copy()
NO_ACTION[11] = False
STEP = rows(UNITS, OBS, MASKS)
MEMORY = np.zeros((N_UNITS, 6), "<f4")


@pytest.mark.parametrize(
    ("fields", "reason", "field", "words"),
    [
        (STEP | rows(UNITS, BAD_OBS, MASKS), "INVALID_REQUEST", "rows[3].obs",
         "rows[3]: obs[2] is not a number in [-1e+06, 1e+06]"),
        (STEP | rows(UNITS, OBS, NO_ACTION), "INVALID_REQUEST", "rows[11].avail_actions",
         "rows[11]: avail_actions leaves no action to take"),
        (STEP | {"obs": OBS.tobytes()[1:]}, "INVALID_REQUEST", "obs",
         "obs has 335 bytes, which are not 12 equal rows"),
        (STEP | {"obs": OBS[:, 1:].tobytes()}, "INVALID_REQUEST", "rows[0].obs",
         "rows[0]: obs has 6 values; tiny version 1 takes 7"),
        (STEP | {"last_actions": [0] * 11}, "INVALID_REQUEST", "last_actions",
         "last_actions has 11 values for 12 units"),
        (STEP | {"last_actions": [0] * 11 + [5]}, "INVALID_REQUEST", "rows[11].last_action",
         "rows[11]: last_action must be"),
        (STEP | {"units": [*UNITS[:-1], UNITS[0]]}, "INVALID_REQUEST", "units",
         "units has a unit more than once"),
        (STEP | {"units": [*UNITS[:-1], 1]}, "INVALID_REQUEST", "rows[11].units",
         "rows[11]: no episode of this unit has begun"),
        (STEP | {"units": []}, "INVALID_REQUEST", "rows", "there are no rows"),
        ({}, "INVALID_REQUEST", "rows", "there are no rows"),
        (STEP | {"begin": begin([], [])}, "INVALID_REQUEST", "begin.units", "begin names no"),
        (STEP | {"begin": begin(UNITS, AGENTS[1:])}, "INVALID_REQUEST", "begin.agent_ids",
         "begin.agent_ids has 11 values for 12 units"),
        (STEP | {"begin": begin([0, 7, 0], [0, 0, 0])}, "INVALID_REQUEST", "begin.units",
         "begin.units has a unit more than once"),
        (STEP | {"begin": begin(UNITS, [*AGENTS[1:], 3])}, "AGENT_NOT_FOUND", "",
         "begin[11]: tiny version 1 has agents 0 to 2"),
        (STEP | {"begin": begin(model="XYZZY")}, "MODEL_NOT_FOUND", "", "begin[0]: no model of"),
        (STEP | {"begin": begin(hidden=MEMORY.tobytes())}, "INVALID_REQUEST",
         "begin[0].last_action", "begin[0]: last_action is needed"),
        (STEP | {"begin": begin(hidden=MEMORY[:, 1:].tobytes(), last_actions=[0] * 12)},
         "INVALID_REQUEST", "begin[0].hidden", "begin[0]: hidden has 5 values"),
        # What is begun counts only if the steps run.
        (STEP | rows(UNITS, BAD_OBS, MASKS, begin=begin()), "INVALID_REQUEST", "rows[3].obs",
         "rows[3]: obs[2] is not"),
        (STEP | {"begin": begin(list(range(513)), [0] * 513)}, "REQUEST_TOO_LARGE", "",
         "there are 513 rows; one message takes at most 512"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing_and_the_stream_goes_on(
    team: TeamCall, model: AgentModel, fields: dict[str, Any], reason: str, field: str, words: str
) -> None:
    twin = Twin(model)
    expect(team(**STEP, begin=begin(), **WANT), twin.step(UNITS, OBS, MASKS))
    answer = team(**(fields | {"sequence": 8} | WANT))
    fault = answer.fault
    assert (fault.reason, fault.field) == (reason, field)
    assert fault.message.startswith(words)
    assert "XYZZY" not in fault.message
    assert fault.retry_after_s == 0
    if reason == "INVALID_REQUEST":
        assert fault.code == INVALID
    answer.ClearField("fault")
    assert answer == pb.TeamStreamResponse(sequence=8)
    expect(team(**STEP, **WANT), twin.step(UNITS, OBS, MASKS))


def test_junk_ends_the_stream(channel: grpc.Channel) -> None:
    call: Any = channel.stream_stream("/unmix.v1.AgentService/TeamStream")
    with pytest.raises(grpc.RpcError) as caught:
        next(call(iter([b"\xff\xff"])))
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_every_unit_takes_a_place_until_the_stream_ends(
    channel: grpc.Channel, http: httpx.Client, strict_channel: grpc.Channel
) -> None:
    def n_units() -> float:
        lines = http.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("unmix_streams "))

    before = n_units()
    team = TeamCall(channel)
    team(begin=begin([1], [0]))
    assert n_units() == before + 1
    team(begin=begin([1, 2, 3], [0, 0, 0]))
    assert n_units() == before + 3
    team(**rows([9], OBS[:1], MASKS[:1], begin=begin([4, 5], [0, 0])))  # refused: 9 is not begun
    assert n_units() == before + 3
    assert team.end() == grpc.StatusCode.OK
    assert n_units() == before

    strict = TeamCall(strict_channel)
    fault = strict(begin=begin([1, 2], [0, 0], model="tiny")).fault
    assert (fault.reason, fault.retry_after_s) == ("OVERLOADED", 1)
    assert fault.message == "streams hold 1 units at most"
    assert not strict(begin=begin([1], [0], model="tiny")).HasField("fault")
    assert strict.end() == grpc.StatusCode.OK


def test_a_late_message_is_a_fault_that_is_worth_another_try(late_server: RunningServer) -> None:
    with grpc.insecure_channel(late_server.grpc) as channel:
        team = TeamCall(channel)
        fault = team(**STEP, begin=begin()).fault
        assert fault.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert team.end() == grpc.StatusCode.OK


def test_rows_are_counted(channel: grpc.Channel, http: httpx.Client) -> None:
    def counts() -> dict[str, float]:
        lines = http.get("/metrics").text.splitlines()
        found = (line.rpartition(" ") for line in lines if 'door="grpc_team"' in line)
        return {labels: float(value) for labels, _, value in found}

    def count(code: str, shown: dict[str, float]) -> float:
        return shown.get(f'unmix_requests_total{{code="{code}",door="grpc_team"}}', 0)

    before = counts()
    team = TeamCall(channel)
    team(**STEP, begin=begin())
    team(**rows(UNITS, BAD_OBS, MASKS))
    assert team.end() == grpc.StatusCode.OK
    after = counts()
    assert count("ok", after) == count("ok", before) + N_UNITS
    assert count("invalid_request", after) == count("invalid_request", before) + 1
