"""Sessions: forgotten after their time, never more than the cap."""

from __future__ import annotations

import pytest

from serving.agent_model import AgentModel
from serving.errors import Overloaded, SessionNotFound
from serving.memory import Memory
from serving.service import Episode
from serving.sessions import Sessions


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
