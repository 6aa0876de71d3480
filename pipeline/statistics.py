"""Intervals and paired tests on identical items. scipy does the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats


class Interval(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(right: int, total: int) -> Interval:
    """Wilson's 95 % interval of a proportion; (nan, 0, 1) without items."""
    if total == 0:
        return Interval(float("nan"), 0.0, 1.0)
    interval = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    return Interval(right / total, float(interval.low), float(interval.high))


def paired_bootstrap(before: NDArray[np.bool_], after: NDArray[np.bool_], resamples: int, seed: int) -> Interval:
    """Mean of after − before over items, with the 95 % percentile interval over resampled items."""
    difference = after.astype(float) - before.astype(float)
    if len(difference) < 2:
        value = float(difference.mean()) if len(difference) else float("nan")
        return Interval(value, -1.0, 1.0)
    rng = np.random.default_rng(seed)
    # Only the counts of -1, 0 and +1 matter for the mean, so resampling them is resampling the items.
    counts = [(difference == sign).mean() for sign in (-1, 0, 1)]
    drawn = rng.multinomial(len(difference), counts, size=resamples)
    means = (drawn[:, 2] - drawn[:, 0]) / len(difference)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


def mcnemar(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """Exact two-sided p-value of McNemar's test on the discordant items; 1 where there are none."""
    gained = int((~before & after).sum())
    lost = int((before & ~after).sum())
    return 1.0 if gained + lost == 0 else float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected
