"""Epsilon's schedule, and the choice it drives."""

from __future__ import annotations

import pytest
import torch

from training.exploration import LinearSchedule, choose, epsilon_greedy, greedy

AVAILABLE = torch.tensor([[True, False, True, True], [False, True, False, False]])
Q_VALUES = torch.tensor([[1.0, 9.0, 2.0, 2.0], [5.0, -3.0, 7.0, 8.0]])


@pytest.mark.parametrize(
    ("env_steps", "epsilon"),
    [(0, 1.0), (25_000, 0.525), (40_000, 0.24), (50_000, 0.05), (2_000_000, 0.05)],
)
def test_epsilon_falls_linearly_then_stays(env_steps: int, epsilon: float) -> None:
    assert LinearSchedule(1.0, 0.05, 50_000)(env_steps) == pytest.approx(epsilon)


def test_greedy_takes_the_first_of_the_best_available_actions() -> None:
    assert greedy(Q_VALUES, AVAILABLE).tolist() == [2, 1]


def test_without_exploration_the_choice_is_greedy() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        assert epsilon_greedy(Q_VALUES, AVAILABLE, 0.0, generator).tolist() == [2, 1]


def test_random_actions_are_uniform_over_the_available_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    n = 30_000
    actions = epsilon_greedy(Q_VALUES.expand(n, 2, 4), AVAILABLE.expand(n, 2, 4), 1.0, generator)
    counts = torch.bincount(actions[:, 0], minlength=4)
    # 10,000 each on average, standard deviation sqrt(30,000 * 1/3 * 2/3) = 82.
    assert counts[1] == 0
    assert ((counts[[0, 2, 3]] - 10_000).abs() < 5 * 82).all()
    assert (actions[:, 1] == 1).all()


def test_epsilon_is_the_share_of_random_choices() -> None:
    generator = torch.Generator().manual_seed(0)
    n = 30_000
    actions = epsilon_greedy(Q_VALUES.expand(n, 2, 4), AVAILABLE.expand(n, 2, 4), 0.3, generator)
    # Action 0 comes from exploring alone: 0.3 / 3 of the time; standard deviation 52.
    assert abs(int((actions[:, 0] == 0).sum()) - 3_000) < 5 * 52


def test_the_same_generator_gives_the_same_choices() -> None:
    draws = [
        epsilon_greedy(
            Q_VALUES.expand(99, 2, 4),
            AVAILABLE.expand(99, 2, 4),
            0.5,
            torch.Generator().manual_seed(7),
        )
        for _ in range(2)
    ]
    assert torch.equal(*draws)


@pytest.mark.parametrize(
    ("draw", "action"), [(0.0, 0), (0.33, 0), (0.34, 2), (0.67, 3), (1 - 2**-53, 3)]
)
def test_a_draw_points_at_one_of_the_available_actions(draw: float, action: int) -> None:
    explore = torch.tensor([True])
    draws = torch.tensor([draw], dtype=torch.float64)
    assert choose(Q_VALUES[:1], AVAILABLE[:1], explore, draws).tolist() == [action]
