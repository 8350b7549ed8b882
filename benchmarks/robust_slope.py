"""How much something has grown, undisturbed by what it does for a moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def growth(times: Sequence[float], values: Sequence[float]) -> float:
    """The median slope between any two samples, over the whole time (Theil and Sen's estimator).

    Up to three samples in ten may be anything at all.
    """
    at, of = np.asarray(times, np.float64), np.asarray(values, np.float64)
    earlier, later = np.triu_indices(len(at), 1)
    slopes = (of[later] - of[earlier]) / (at[later] - at[earlier])
    return float(np.median(slopes) * (at[-1] - at[0]))
