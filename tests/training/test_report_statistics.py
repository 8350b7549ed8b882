"""The report's statistics, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from training.report.statistics import (
    Curve,
    band,
    final_win_rate,
    first_reach,
    interquartile_mean,
    iqm_interval,
    median,
)


def near(expected: Any) -> Any:
    return pytest.approx(expected, rel=0.0, abs=1e-12)


def curve(t_env: tuple[int, ...], win_rate: tuple[float, ...]) -> Curve:
    return Curve(t_env, win_rate, tuple(t / 10 for t in t_env))


def test_the_final_win_rate_is_the_mean_of_the_last_tenth_and_not_the_best() -> None:
    # 900 is on the border, and in; the best test, at 500, is not.
    tests = curve((100, 500, 899, 900, 1000), (0.0, 1.0, 0.9, 0.5, 0.75))
    assert final_win_rate(tests) == near(0.625)
    assert final_win_rate(curve((0,), (0.25,))) == 0.25


def test_quartiles_between_straight_lines() -> None:
    one = curve((10, 20, 30), (0.0, 0.5, 1.0))
    other = curve((10, 30, 40), (0.2, 0.4, 0.9))  # 0.3 at 20; 40 is past the first one's end
    shown = band([one, other])
    assert shown.t_env.tolist() == [10, 20, 30]
    assert shown.low.tolist() == near([0.05, 0.35, 0.55])
    assert shown.median.tolist() == near([0.1, 0.4, 0.7])
    assert shown.high.tolist() == near([0.15, 0.45, 0.85])


def test_quartiles_of_five_runs_are_the_second_and_the_fourth() -> None:
    shown = band([curve((5,), (value,)) for value in (0.9, 0.1, 0.5, 0.3, 0.7)])
    assert (shown.low[0], shown.median[0], shown.high[0]) == (0.3, 0.5, 0.7)


def test_steps_before_the_last_first_test_are_left_out() -> None:
    shown = band([curve((10, 20, 30), (0, 0, 0)), curve((15, 30), (1, 1))])
    assert shown.t_env.tolist() == [15, 20, 30]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([8, 1, 7, 2, 6, 3, 5, 4], 4.5),  # (3 + 4 + 5 + 6) / 4
        ([0.0, 100.0, 2.0, 3.0, 4.0], 3.0),  # one off each end
        ([0.0, 0.5, 1.0], 0.5),  # too few to take any off
        ([0.3], 0.3),
    ],
)
def test_the_interquartile_mean(values: list[float], expected: float) -> None:
    assert float(interquartile_mean(values)) == near(expected)
    assert interquartile_mean(np.array([values, values])).shape == (2,)


def test_intervals_whose_ends_are_known() -> None:
    assert iqm_interval([[0.4, 0.4, 0.4]]) == near((0.4, 0.4))
    # Two seeds: both the lower in a quarter of the resamples, both the higher in a quarter.
    assert iqm_interval([[0.0, 1.0]]) == (0.0, 1.0)
    # Three: all three the lowest in 1 of 27, more often than 1 in 40.
    assert iqm_interval([[0.8, 0.9, 1.0]]) == near((0.8, 1.0))
    # Five times 0 and once 1: k ones leave an IQM of 0, 0, 1/4, 1/2, ...; k is at most 2 in 93.8 %
    # and at most 3 in 99.1 %, so 97.5 % lies at 1/2.
    assert iqm_interval([[0, 0, 0, 0, 0, 1]]) == (0.0, 0.5)


def test_each_map_is_resampled_by_itself() -> None:
    # Two zeros and two ones whatever is drawn; drawn together, all four could be zeros.
    assert iqm_interval([[0.0, 0.0], [1.0, 1.0]]) == (0.5, 0.5)
    together = iqm_interval([[0.0, 0.0, 1.0, 1.0]])
    assert together is not None
    assert together[0] < 0.5 < together[1]


def test_one_seed_has_no_interval() -> None:
    assert iqm_interval([[0.5]]) is None
    assert iqm_interval([[0.5, 0.6], [0.5]]) is None


def test_the_first_test_that_reached_it() -> None:
    tests = curve((10, 20, 30), (0.4, 0.8, 0.5))
    assert first_reach(tests, 0.4) == (10.0, 1.0)
    assert first_reach(tests, 0.5) == (20.0, 2.0)
    assert first_reach(tests, 0.81) == (math.inf, math.inf)


def test_a_run_that_never_arrives_counts_as_the_latest() -> None:
    assert median([5.0, math.inf, 3.0]) == 5.0
    assert median([math.inf, 3.0]) == math.inf
