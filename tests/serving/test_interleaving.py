"""Memories held and carried in every way, side by side, in any order: each unit gets, bit for bit,
what the model gives it alone.

Up to 64 units come and go, in sessions, unit streams, team streams and rows of POST /act, are
stepped, begin anew and are left alone until they expire, as random numbers will have it.
UNMIX_TEST_ROUNDS=2000 makes a long run of it.
"""

from __future__ import annotations

import os
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import pytest

from serving.models.agent_model import AgentModel, Row, StepResult
from serving.pb.unmix.v1 import agent_service_pb2 as pb
from serving.pb.unmix.v1 import agent_service_pb2_grpc as pb_grpc
from tests.serving.running import RunningServer

ROUNDS = int(os.environ.get("UNMIX_TEST_ROUNDS", "60"))
MAX_UNITS = 64
TTL_S = 0.5
WANT: dict[str, Any] = {"want_next_hidden": True, "want_q_values": True}


class Given(NamedTuple):
    """What a unit sees."""

    obs: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


class ExpiredError(Exception):
    """The service has forgotten the session."""


Answers = list[tuple[int, bytes, bytes]]
"""(action, q_values, next_hidden) of each unit."""


class World:
    """The server, and what it takes to ask it for many things at once."""

    def __init__(self, server: RunningServer) -> None:
        self.http = httpx.Client(base_url=server.rest, trust_env=False, timeout=30)
        self.channel = grpc.insecure_channel(server.grpc)
        self.stub: Any = pb_grpc.AgentServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.threads = ThreadPoolExecutor(32)

    def close(self) -> None:
        self.threads.shutdown()
        self.channel.close()
        self.http.close()


class Holder(ABC):
    """Units of one way. `begin` is without effect until the next step; `send` does not wait."""

    def __init__(self, world: World, agents: list[int]) -> None:
        self.world, self.agents = world, agents

    @abstractmethod
    def begin(self, places: list[int]) -> None: ...

    @abstractmethod
    def send(self, places: list[int], given: list[Given]) -> Callable[[], Answers]:
        """Step these units; what it returns waits for their answers. Raises then: ExpiredError"""

    @abstractmethod
    def close(self) -> None: ...


class Streamed(Holder):
    """What unit and team streams have in common."""

    def _open(self, method: str) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        call = getattr(self.world.stub, method)
        self._call = call(iter(self._requests.get, None), timeout=3600)

    def close(self) -> None:
        self._requests.put(None)
        assert list(self._call) == []
        assert self._call.code() == grpc.StatusCode.OK


class UnitStream(Streamed):
    def __init__(self, world: World, agents: list[int]) -> None:
        super().__init__(world, agents[:1])
        self._fresh = True
        self._open("ActStream")

    def begin(self, places: list[int]) -> None:
        self._fresh = True

    def send(self, places: list[int], given: list[Given]) -> Callable[[], Answers]:
        begin = pb.Episode(agent_id=self.agents[0]) if self._fresh else None
        obs, mask = given[0].obs.tobytes(), given[0].mask.tobytes()
        self._requests.put(pb.ActStreamRequest(begin=begin, obs=obs, avail_actions=mask, **WANT))
        self._fresh = False

        def receive() -> Answers:
            answer = next(self._call)
            return [(answer.action, answer.q_values, answer.next_hidden)]

        return receive


class TeamStream(Streamed):
    def __init__(self, world: World, agents: list[int]) -> None:
        super().__init__(world, agents)
        self._fresh = set(range(len(agents)))
        self._open("TeamStream")

    def begin(self, places: list[int]) -> None:
        self._fresh.update(places)

    def send(self, places: list[int], given: list[Given]) -> Callable[[], Answers]:
        fresh = [place for place in places if place in self._fresh]
        self._fresh.difference_update(fresh)
        agents = [self.agents[place] for place in fresh]
        self._requests.put(
            pb.TeamStreamRequest(
                begin=pb.TeamBegin(units=fresh, agent_ids=agents) if fresh else None,
                units=places,
                obs=b"".join(it.obs.tobytes() for it in given),
                avail_actions=b"".join(it.mask.tobytes() for it in given),
                **WANT,
            )
        )

        def receive() -> Answers:
            answer = next(self._call)
            assert not answer.HasField("fault"), answer.fault
            q_values = np.frombuffer(answer.q_values, "<f4").reshape(len(places), 5)
            hidden = np.frombuffer(answer.next_hidden, "<f4").reshape(len(places), 6)
            return [
                (action, own.tobytes(), memory.tobytes())
                for action, own, memory in zip(answer.actions, q_values, hidden, strict=True)
            ]

        return receive


class Session(Holder):
    def __init__(self, world: World, agents: list[int]) -> None:
        super().__init__(world, agents[:1])
        self._fresh = False
        self._used_after = time.monotonic()
        opened = world.http.post("/sessions", json={"agent_id": agents[0]})
        assert opened.status_code == 201, opened.text
        self._used_before = time.monotonic()
        self._path = f"/sessions/{opened.json()['session']}"

    def begin(self, places: list[int]) -> None:
        self._fresh = True

    def send(self, places: list[int], given: list[Given]) -> Callable[[], Answers]:
        return self.world.threads.submit(self._step, given[0]).result

    def _step(self, given: Given) -> Answers:
        if self._fresh:
            self._post(f"{self._path}/reset", {})
            self._fresh = False
        body = step_body(given) | {
            "session": self._path.removeprefix("/sessions/"),
            "want": ["q_values", "next_hidden"],
        }
        return [read(self._post(f"/agents/{self.agents[0]}/act", body))]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The service's clock is this one: who has expired was idle too long, and only who was."""
        sent = time.monotonic()
        response = self.world.http.post(path, json=body)
        received = time.monotonic()
        if response.status_code == 404:
            assert received - self._used_after >= TTL_S
            raise ExpiredError
        assert response.status_code == 200, response.text
        assert sent - self._used_before < TTL_S
        self._used_after, self._used_before = sent, received
        content: dict[str, Any] = response.json()
        return content

    def close(self) -> None:
        assert self.world.http.delete(self._path).status_code in {204, 404}


class Carried(Holder):
    def __init__(self, world: World, agents: list[int]) -> None:
        super().__init__(world, agents)
        self._memories: list[dict[str, Any]] = [{} for _ in agents]

    def begin(self, places: list[int]) -> None:
        for place in places:
            self._memories[place] = {}

    def send(self, places: list[int], given: list[Given]) -> Callable[[], Answers]:
        rows = [
            step_body(it) | {"agent_id": self.agents[place]} | self._memories[place]
            for place, it in zip(places, given, strict=True)
        ]
        body = {"rows": rows, "want": ["q_values"]}
        asked = self.world.threads.submit(self.world.http.post, "/act", json=body)

        def receive() -> Answers:
            answered = asked.result().json()["rows"]
            for place, row in zip(places, answered, strict=True):
                memory = {"hidden": row["next_hidden"], "last_action": row["action"]}
                self._memories[place] = memory
            return [read(row) for row in answered]

        return receive

    def close(self) -> None:
        pass


def step_body(given: Given) -> dict[str, Any]:
    return {"obs": given.obs.tolist(), "avail_actions": given.mask.tolist()}


def read(row: dict[str, Any]) -> tuple[int, bytes, bytes]:
    q_values, hidden = (
        np.array(row[name], "<f4").tobytes() for name in ("q_values", "next_hidden")
    )
    return row["action"], q_values, hidden


KINDS: list[type[Holder]] = [UnitStream, TeamStream, Session, Carried]


class Play:
    """A holder beside its serial twin."""

    def __init__(self, holder: Holder, model: AgentModel) -> None:
        self.holder = holder
        self._model = model
        self._memories = [(model.first_hidden, -1)] * len(holder.agents)

    def begin(self, places: list[int]) -> None:
        self.holder.begin(places)
        for place in places:
            self._memories[place] = (self._model.first_hidden, -1)

    def expect(self, place: int, given: Given) -> tuple[int, bytes, bytes]:
        hidden, last = self._memories[place]
        agent = self.holder.agents[place]
        row = Row(given.obs.tobytes(), given.mask.tobytes(), last, agent, hidden)
        (result,) = self._model.step([row])
        assert isinstance(result, StepResult)
        self._memories[place] = (result.next_hidden, result.action)
        return tuple(result)  # type: ignore[return-value]


@pytest.fixture
def world(models: Path) -> Iterator[World]:
    # Runs of five rows split most messages, and mix all of them.
    with RunningServer(models, {"session_ttl_s": TTL_S, "max_batch": 5}) as running:
        opened = World(running)
        yield opened
        opened.close()


def draw(random: np.random.Generator) -> Given:
    mask = random.random(5) < 0.6
    mask[random.integers(5)] = True
    return Given(random.uniform(-1, 1, 7).astype("<f4"), mask)


def some(random: np.random.Generator, n: int, least: int = 0) -> list[int]:
    """Any of the first n, in any order."""
    places: list[int] = random.permutation(n)[: random.integers(least, n + 1)].tolist()
    return places


def come_and_go(
    plays: list[Play], world: World, model: AgentModel, random: np.random.Generator
) -> None:
    while plays and random.random() < 0.2:
        plays.pop(random.integers(len(plays))).holder.close()
    n_units = sum(len(play.holder.agents) for play in plays)
    while n_units < MAX_UNITS and random.random() < 0.8:
        kind = KINDS[random.integers(len(KINDS))]
        n = min(int(random.integers(1, 12)), MAX_UNITS - n_units)
        play = Play(kind(world, random.integers(0, 3, n).tolist()), model)
        plays.append(play)
        n_units += len(play.holder.agents)


def play_round(plays: list[Play], random: np.random.Generator, counts: dict[str, int]) -> None:
    """Some units of some holders step, all of them sent before any answer is read."""
    asked = []
    for index in some(random, len(plays)):
        play = plays[index]
        n = len(play.holder.agents)
        if random.random() < 0.15:
            play.begin(again := some(random, n, least=1))
            counts["begun again"] += len(again)
        places = some(random, n, least=1)
        given = [draw(random) for _ in places]
        asked.append((play, places, given, play.holder.send(places, given)))
    for play, places, given, receive in asked:
        try:
            answers = receive()
        except ExpiredError:
            plays.remove(play)
            counts["expired"] += 1
            continue
        expected = [play.expect(place, it) for place, it in zip(places, given, strict=True)]
        assert answers == expected
        counts[type(play.holder).__name__] += len(places)


def test_any_mix_of_memories_in_any_order_equals_the_serial_twin(
    world: World, model: AgentModel
) -> None:
    random = np.random.default_rng(0)
    counts = dict.fromkeys([*(kind.__name__ for kind in KINDS), "begun again", "expired"], 0)
    plays: list[Play] = []
    for number in range(ROUNDS):
        come_and_go(plays, world, model, random)
        if number % 25 == 20:
            time.sleep(1.5 * TTL_S)  # every session expires
        play_round(plays, random, counts)
    for play in plays:
        play.holder.close()
    # All of it did happen.
    assert min(counts.values()) >= (ROUNDS // 60), counts
