"""How much is learned per battle."""

from __future__ import annotations

import pytest

from training.pace import Counts, GradientSchedule, Speed, crossed


def test_the_first_gradient_step_is_due_with_the_first_full_batch() -> None:
    schedule = GradientSchedule(1.0, batch_size=32)
    assert [schedule.due(episodes) for episodes in (0, 31, 32, 33, 132)] == [0, 0, 1, 2, 101]
    assert schedule.episodes_at(1) == 32
    assert schedule.episodes_at(101) == 132


def test_a_quarter_of_a_step_per_episode() -> None:
    schedule = GradientSchedule(0.25, batch_size=32)
    assert [schedule.due(episodes) for episodes in (34, 35, 38, 39)] == [0, 1, 1, 2]
    assert [schedule.episodes_at(step) for step in (1, 2, 3)] == [35, 39, 43]


@pytest.mark.parametrize("ratio", [0.1, 0.29, 1.0, 2.5])
def test_a_step_is_due_exactly_when_its_episodes_have_been_played(ratio: float) -> None:
    schedule = GradientSchedule(ratio, batch_size=8)
    for step in range(1, 200):
        at = schedule.episodes_at(step)
        assert schedule.due(at - 1) < step <= schedule.due(at)
    assert schedule.due(7 + 1000) == round(1000 * ratio)  # no rounding error adds up


def test_crossed() -> None:
    assert crossed(10, before=9, now=10)
    assert not crossed(10, before=10, now=19)
    assert crossed(10, before=8, now=35)
    assert not crossed(10, before=10, now=10)


def test_speed_counts_what_came_before_a_resume() -> None:
    speed = Speed(started=0.0, counts=Counts(env_steps=1000, seconds=50.0))
    assert speed.seconds() == pytest.approx(50.0 + speed.seconds_here(), abs=0.1)
    assert speed.steps_per_second() == 0.0
    speed.mark(3000)
    assert speed.steps_per_second() > 0
