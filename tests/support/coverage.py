"""Simulated coverage of intervals over seeds and items: how often a 95 % interval contains the truth, over a grid of designs.

A latent normal variable decides every answer: an arm's level, the seed, the difficulty of the item (shared by both arms), the item for this
arm, and chance; the answer is correct if it is positive. The true accuracy over all seeds and items is then known in closed form. Seeds of
the two arms are independent, items are shared by all seeds and both arms.

Axes: S seeds, N items, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from pipeline.analysis.statistics import Interval, accuracy_interval, change_interval

Answers = NDArray[np.bool_]

SHARED, OWN = 1.0, 0.5
"""Standard deviations of an item's difficulty, shared by the arms and of one arm; that of chance is 1."""
ACCURACY: Final = (0.6, 0.5)
SPREADS: Final = (0.0, 0.02, 0.04, 0.10)
SEEDS: Final = (2, 3, 5, 10)
ITEMS: Final = (50, 400, 2000)


class Design(NamedTuple):
    """An experiment with two arms."""

    spread: float
    seeds: int
    items: int


@lru_cache(maxsize=64)
def latent(accuracy: float, spread: float) -> tuple[float, float]:
    """Level and seed deviation for which the seeds' true accuracies have this mean and standard deviation."""
    scale = math.sqrt(1 + SHARED**2 + OWN**2)
    points, weights = np.polynomial.hermite_e.hermegauss(61)

    def level(deviation: float) -> float:
        return float(stats.norm.ppf(accuracy)) * math.hypot(scale, deviation)

    def excess(deviation: float) -> float:
        seeds = stats.norm.cdf((level(deviation) + deviation * points) / scale)
        variance = np.average((seeds - accuracy) ** 2, weights=weights)
        return math.sqrt(variance) - spread

    deviation = 0.0 if spread == 0 else float(optimize.brentq(excess, 0.0, 20.0))
    return level(deviation), deviation


def arm(rng: np.random.Generator, design: Design, accuracy: float, difficulty_N: NDArray[np.float32]) -> Answers:
    """Correctness by seed and item."""
    level, deviation = latent(accuracy, design.spread)
    found_SN = rng.standard_normal((design.seeds, design.items), dtype=np.float32)
    found_SN += (level + deviation * rng.standard_normal((design.seeds, 1))).astype(np.float32)
    found_SN += difficulty_N + np.float32(OWN) * rng.standard_normal(design.items, dtype=np.float32)
    right_SN: Answers = found_SN > 0
    return right_SN


class Coverage(NamedTuple):
    """Share of repetitions whose interval contains the truth, for one arm's accuracy and for the difference of two."""

    accuracy: float
    change: float


Change = Callable[[Answers, Answers], Interval]


def coverage(design: Design, repetitions: int, change: Change = change_interval) -> Coverage:
    rng = np.random.default_rng(design.seeds * 10_000 + design.items)
    one = both = 0
    for _ in range(repetitions):
        difficulty_N = np.float32(SHARED) * rng.standard_normal(design.items, dtype=np.float32)
        after_SN, before_SN = (arm(rng, design, accuracy, difficulty_N) for accuracy in ACCURACY)
        alone, paired = accuracy_interval(after_SN), change(before_SN, after_SN)
        one += alone.low <= ACCURACY[0] <= alone.high
        both += paired.low <= ACCURACY[0] - ACCURACY[1] <= paired.high
    return Coverage(one / repetitions, both / repetitions)


def satterthwaite(before_SN: Answers, after_SN: Answers) -> Interval:
    """The interval that is not used: one t quantile with Satterthwaite's degrees of freedom."""
    change_SN = after_SN.astype(float) - before_SN
    seeds, items = change_SN.shape
    of_seeds, of_items = change_SN.mean(1).var(ddof=1) / seeds, change_SN.mean(0).var(ddof=1) / items
    variance = of_seeds + of_items
    freedom = variance**2 / (of_seeds**2 / (seeds - 1) + of_items**2 / (items - 1))
    half, mean = float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance), float(change_SN.mean())
    return Interval(mean, mean - half, mean + half)


def crossed_bootstrap(before_SN: Answers, after_SN: Answers) -> Interval:
    """Another interval that is not used: percentiles over resampled seeds and items."""
    change_SN = after_SN.astype(float) - before_SN
    seeds, items = change_SN.shape
    rng = np.random.default_rng(seeds * items)
    seeds_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=300)
    items_RN = rng.multinomial(items, np.full(items, 1 / items), size=300)
    low, high = np.quantile(((seeds_RS @ change_SN) * items_RN).sum(1) / change_SN.size, [0.025, 0.975])
    return Interval(float(change_SN.mean()), float(low), float(high))
