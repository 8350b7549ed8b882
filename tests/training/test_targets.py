"""Targets worked out by hand: two episodes, of three steps and of one.

In the order of a batch: both first steps, then the first episode's second and third.
"""

from __future__ import annotations

import pytest
import torch

from tests.training.episodes import make_batch
from tests.training.slow_coma import lambda_return, steps_of
from training.algorithms.targets import lambda_returns, one_step_targets

REWARD = torch.tensor([1.0, 4.0, 2.0, 3.0])
# The first episode was decided at its end; the second ran out of time and bootstraps.
TERMINAL = torch.tensor([False, False, False, True])
NEXT_VALUE = torch.tensor([[10.0], [8.0], [20.0], [30.0]])
STEP_WIDTHS = (2, 1, 1)


def test_one_step_targets() -> None:
    # 1 + 0.5 * 10; 4 + 0.5 * 8; 2 + 0.5 * 20; 3 and nothing after the end.
    targets = one_step_targets(REWARD, TERMINAL, NEXT_VALUE, gamma=0.5)
    assert targets[:, 0].tolist() == [6.0, 8.0, 12.0, 3.0]


def test_lambda_returns_start_at_each_episodes_own_end() -> None:
    returns = lambda_returns(REWARD, TERMINAL, NEXT_VALUE, STEP_WIDTHS, gamma=0.5, td_lambda=0.5)
    # Third step: 3. Second: 2 + 0.5 * (0.5 * 20 + 0.5 * 3) = 7.75.
    # First: 1 + 0.5 * (0.5 * 10 + 0.5 * 7.75) = 5.4375. The short episode: 4 + 0.5 * 8.
    assert returns[:, 0].tolist() == [5.4375, 8.0, 7.75, 3.0]


def test_lambda_one_is_the_discounted_return() -> None:
    returns = lambda_returns(REWARD, TERMINAL, NEXT_VALUE, STEP_WIDTHS, gamma=0.5, td_lambda=1.0)
    # 3; 2 + 0.5 * 3; 1 + 0.5 * 3.5. The short episode still bootstraps.
    assert returns[:, 0].tolist() == [2.75, 8.0, 3.5, 3.0]


def test_lambda_zero_is_the_one_step_target() -> None:
    returns = lambda_returns(REWARD, TERMINAL, NEXT_VALUE, STEP_WIDTHS, gamma=0.9, td_lambda=0.0)
    assert torch.equal(returns, one_step_targets(REWARD, TERMINAL, NEXT_VALUE, gamma=0.9))


def test_a_tiny_lambda_is_close_to_lambda_zero() -> None:
    near = lambda_returns(REWARD, TERMINAL, NEXT_VALUE, STEP_WIDTHS, gamma=0.9, td_lambda=1e-6)
    exact = lambda_returns(REWARD, TERMINAL, NEXT_VALUE, STEP_WIDTHS, gamma=0.9, td_lambda=0.0)
    torch.testing.assert_close(near, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("td_lambda", [0.0, 0.5])
def test_values_after_a_terminal_step_are_never_read(td_lambda: float) -> None:
    spoiled = NEXT_VALUE.clone()
    spoiled[3] = torch.nan
    returns = lambda_returns(REWARD, TERMINAL, spoiled, STEP_WIDTHS, gamma=0.5, td_lambda=td_lambda)
    expected = lambda_returns(
        REWARD, TERMINAL, NEXT_VALUE, STEP_WIDTHS, gamma=0.5, td_lambda=td_lambda
    )
    assert torch.equal(returns, expected)


def test_each_agents_column_is_for_itself() -> None:
    both = torch.cat([NEXT_VALUE, 2 * NEXT_VALUE], dim=1)
    returns = lambda_returns(REWARD, TERMINAL, both, STEP_WIDTHS, gamma=0.5, td_lambda=0.5)
    for column, values in enumerate((NEXT_VALUE, 2 * NEXT_VALUE)):
        alone = lambda_returns(REWARD, TERMINAL, values, STEP_WIDTHS, gamma=0.5, td_lambda=0.5)
        assert torch.equal(returns[:, [column]], alone)


@pytest.mark.parametrize("td_lambda", [0.0, 0.3, 0.8, 1.0])
def test_returns_equal_a_loop_over_each_episodes_n_step_returns(td_lambda: float) -> None:
    batch = make_batch((7, 1, 12, 12, 3, 9))  # every third bootstraps at its end
    next_value = torch.randn(batch.n_steps, 2, generator=torch.Generator().manual_seed(0))
    returns = lambda_returns(
        batch.reward, batch.terminal, next_value, batch.widths[1:], 0.9, td_lambda
    )
    step_of = steps_of(batch)
    for episode, length in enumerate(batch.lengths):
        steps = [step_of[episode, t] for t in range(length)]
        for column in range(2):
            rewards = batch.reward[steps].tolist()
            after = next_value[steps, column].tolist()
            if bool(batch.terminal[steps[-1]]):
                after[-1] = 0.0
            for t in range(length):
                expected = lambda_return(rewards[t:], after[t:], 0.9, td_lambda)
                assert float(returns[steps[t], column]) == pytest.approx(expected, abs=1e-5)
