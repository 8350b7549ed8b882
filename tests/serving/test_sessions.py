"""Sessions: forgotten after their time, never more than the cap."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from serving.errors import Overloaded, SessionNotFound
from serving.models.agent_model import AgentModel
from serving.steps.memory import Memory
from serving.steps.service import Episode
from serving.steps.sessions import Sessions


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def episode(model: AgentModel) -> Episode:
    return Episode(model, 0, Memory(model.first_hidden, -1, 0))


def test_a_session_is_found_by_its_id_alone(episode: Episode) -> None:
    sessions = Sessions(cap=10, ttl_s=60)
    ids = {sessions.open(episode) for _ in range(10)}
    assert len(ids) == 10
    assert all(len(session) == 22 for session in ids)  # 128 bits in base64
    with pytest.raises(SessionNotFound):
        sessions.get("A" * 22)


def test_a_session_left_alone_is_forgotten_and_a_used_one_is_not(episode: Episode) -> None:
    clock = Clock()
    sessions = Sessions(cap=10, ttl_s=60, clock=clock)
    idle, used = sessions.open(episode), sessions.open(episode)
    clock.now = 59.0
    assert sessions.get(used) is episode
    clock.now = 60.0
    with pytest.raises(SessionNotFound):
        sessions.get(idle)
    clock.now = 118.0
    assert sessions.get(used) is episode
    assert len(sessions) == 1
    clock.now = 178.0
    assert len(sessions) == 0


def test_the_cap_holds_and_says_when_to_come_back(episode: Episode) -> None:
    clock = Clock()
    sessions = Sessions(cap=2, ttl_s=60, clock=clock)
    first = sessions.open(episode)
    clock.now = 10.0
    sessions.open(episode)
    with pytest.raises(Overloaded, match="2 sessions are open") as caught:
        sessions.open(episode)
    assert caught.value.retry_after_s == 51
    sessions.close(first)
    sessions.open(episode)
    clock.now = 70.0
    sessions.open(episode)
    assert len(sessions) == 1


def test_many_abandoned_sessions_take_no_more_than_the_cap(episode: Episode) -> None:
    clock = Clock()
    sessions = Sessions(cap=100, ttl_s=1, clock=clock)
    for number in range(20_000):
        clock.now = number / 50
        sessions.open(episode)
    assert len(sessions) == 50


def test_a_client_has_a_cap_of_its_own(episode: Episode) -> None:
    clock = Clock()
    sessions = Sessions(cap=5, ttl_s=60, clock=clock, client_cap=2)
    first = sessions.open(episode, "a")
    clock.now = 30.0
    sessions.open(episode, "a")
    with pytest.raises(Overloaded, match="you have 2 sessions open"):
        sessions.open(episode, "a")
    assert [len({sessions.open(episode, client) for _ in range(2)}) for client in "b"] == [2]
    sessions.close(first)
    sessions.open(episode, "a")
    clock.now = 61.0
    with pytest.raises(Overloaded, match="you have 2 sessions open"):
        sessions.open(episode, "a")
    clock.now = 90.0
    sessions.open(episode, "a")
    with pytest.raises(Overloaded, match="you have 2 sessions open"):
        [sessions.open(episode, "a") for _ in range(2)]


def test_a_reset_leaves_the_clients_count_as_it_is(model: AgentModel, episode: Episode) -> None:
    sessions = Sessions(cap=5, ttl_s=60, client_cap=1)
    session = sessions.open(episode, "a")
    for _ in range(3):
        sessions.replace(session, Episode(model, 0, Memory(model.first_hidden, -1, 0)))
    sessions.close(session)
    sessions.open(episode, "a")


def test_a_flood_of_abandoned_sessions_takes_bounded_memory(model: AgentModel) -> None:
    """Two hundred thousand, from as many clients, each with a memory of its own."""
    clock = Clock()
    sessions = Sessions(cap=1_000, ttl_s=10, clock=clock, client_cap=10)
    gc.collect()  # what other tests have left behind
    refused, before = 0, model.n_episodes

    def flood(first: int, n: int) -> None:
        nonlocal refused
        for number in range(first, first + n):
            clock.now = number / 200  # 2,000 in one time to live
            memory = Memory(number.to_bytes(24, "little"), -1, 0)
            try:
                sessions.open(Episode(model, 0, memory), f"client {number}")
            except Overloaded:
                refused += 1

    flood(0, 180_000)
    tracemalloc.start()
    try:
        flood(180_000, 20_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused == 100_000  # a thousand get in, then none until they have expired
    assert model.n_episodes - before == len(sessions) <= 1_000
    assert len(sessions._by_client) <= 1_000
    assert peak < 2_000_000
    clock.now += 10
    assert (len(sessions), len(sessions._by_client), model.n_episodes) == (0, 0, before)


def test_closing_and_replacing(model: AgentModel, episode: Episode) -> None:
    sessions = Sessions(cap=10, ttl_s=60)
    session = sessions.open(episode)
    other = Episode(model, 1, Memory(model.first_hidden, -1, 0))
    sessions.replace(session, other)
    assert sessions.get(session) is other
    sessions.close(session)
    for action in (sessions.get, sessions.close, lambda name: sessions.replace(name, other)):
        with pytest.raises(SessionNotFound):
            action(session)
