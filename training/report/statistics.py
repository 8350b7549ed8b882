"""The statistics of the report, as pure functions of numbers.

A run's *curve* is the win rate of its greedy tests over environment steps. Nothing is smoothed, and
the best test of a run is never used: it would grow with the number of tests.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 10_000
SEED = 2018


@dataclass(frozen=True)
class Curve:
    """A run's tests.

    t_env: [T] int, environment steps, rising. win_rate: [T] float, of each test.
    seconds: [T] float, wall-clock since the run's start when the test was over.
    """

    t_env: tuple[int, ...]
    win_rate: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Band:
    """Quartiles over runs: all [T]."""

    t_env: Floats
    low: Floats
    median: Floats
    high: Floats


def final_win_rate(curve: Curve) -> float:
    """The mean of the tests in the last tenth of the run's steps; the last test is among them."""
    end = curve.t_env[-1]
    last = [w for t, w in zip(curve.t_env, curve.win_rate, strict=True) if 10 * t >= 9 * end]
    return statistics.fmean(last)


def band(curves: Sequence[Curve]) -> Band:
    """Median and quartiles over runs, wherever one of them was tested.

    Between its tests a run's curve is taken to be a straight line; steps before the last run's
    first test and after the first run's last test are left out.
    """
    begin = max(curve.t_env[0] for curve in curves)
    end = min(curve.t_env[-1] for curve in curves)
    steps = sorted({t for curve in curves for t in curve.t_env if begin <= t <= end})
    at = np.array(steps, dtype=np.float64)
    rates = np.array([np.interp(at, curve.t_env, curve.win_rate) for curve in curves])
    low, median, high = np.quantile(rates, (0.25, 0.5, 0.75), axis=0)
    return Band(at, low, median, high)


def interquartile_mean(values: npt.ArrayLike) -> Floats:
    """The mean without the lowest and highest quarter (each rounded down), over the last axis.

    Agarwal et al., "Deep RL at the edge of the statistical precipice", NeurIPS 2021. Of fewer than
    four values it is their mean.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    n = ordered.shape[-1]
    cut = n // 4
    mean: Floats = ordered[..., cut : n - cut].mean(axis=-1)
    return mean


def iqm_interval(strata: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """95 % interval of the interquartile mean of all values: percentiles of a stratified bootstrap.

    Args:
        strata: each map's values, one per seed. A resample draws, with replacement, as many seeds
            of each map as there are (Agarwal et al., 2021).

    Returns:
        None if a map has one seed only: nothing is known of its spread.
    """
    if min(len(stratum) for stratum in strata) < 2:
        return None
    draw = np.random.default_rng(SEED)
    resampled = [
        np.asarray(stratum, dtype=np.float64)[
            draw.integers(len(stratum), size=(RESAMPLES, len(stratum)))
        ]
        for stratum in strata
    ]
    means = interquartile_mean(np.concatenate(resampled, axis=1))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def first_reach(curve: Curve, goal: float) -> tuple[float, float]:
    """Environment steps and seconds of the first test that won `goal` or more; inf if none did."""
    for t, won, seconds in zip(curve.t_env, curve.win_rate, curve.seconds, strict=True):
        if won >= goal:
            return float(t), seconds
    return math.inf, math.inf


def median(values: Sequence[float]) -> float:
    """Of numbers that may be infinite: a run that never arrives counts as later than all others."""
    return statistics.median(values)
