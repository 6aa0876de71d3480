"""Simulated coverage of the intervals: how often a 95 % interval contains the truth, over a grid of designs.

A latent normal variable decides every answer: an arm's level, the seed, the difficulty of the item (shared by both arms), the item for this
arm, and chance; the answer is correct if it is positive. The true accuracy over all seeds and items is then known in closed form. Seeds of
the two arms are independent, items are shared by all seeds and both arms.

Axes: S seeds, N items.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from pipeline.analysis.statistics import Interval, accuracy_interval, change_interval, wilson

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


def least(wanted: float, repetitions: int) -> float:
    """What 999 of 1000 simulations reach if the coverage is `wanted`."""
    return float(stats.binom.ppf(0.001, repetitions, wanted)) / repetitions


@pytest.mark.parametrize(
    "design", [Design(0.0, 5, 50), Design(0.04, 2, 400), Design(0.10, 3, 400), Design(0.02, 5, 400)], ids=str
)
def test_intervals_over_seeds_and_items_cover_what_they_claim(design: Design) -> None:
    found = coverage(design, 500)
    assert min(found) >= least(0.94, 500)
    assert max(found) <= 0.995


def test_the_whole_grid_is_covered() -> None:
    """At least 94 % everywhere; more than 98 % only with two or three seeds that hardly differ, or with few items."""
    designs = [Design(spread, seeds, items) for spread in SPREADS for seeds in SEEDS for items in ITEMS]
    found = {design: coverage(design, 1500) for design in designs}
    assert not {design: both for design, both in found.items() if min(both) < least(0.94, 1500)}
    wide = [design for design, both in found.items() if max(both) > 1 - least(0.02, 1500)]
    assert all(design.seeds <= 3 or design.items == 50 for design in wide)
    assert [float(np.mean([both[place] for both in found.values()])) for place in range(2)] == pytest.approx(
        [0.965] * 2, abs=0.01
    )


def satterthwaite(before_SN: Answers, after_SN: Answers) -> Interval:
    """The interval that is not used: one t quantile with Satterthwaite's degrees of freedom."""
    change_SN = after_SN.astype(float) - before_SN
    seeds, items = change_SN.shape
    of_seeds, of_items = change_SN.mean(1).var(ddof=1) / seeds, change_SN.mean(0).var(ddof=1) / items
    variance = of_seeds + of_items
    freedom = variance**2 / (of_seeds**2 / (seeds - 1) + of_items**2 / (items - 1))
    half, mean = float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance), float(change_SN.mean())
    return Interval(mean, mean - half, mean + half)


def test_one_t_quantile_for_seeds_and_items_covers_too_little() -> None:
    design = Design(0.04, 2, 2000)
    assert coverage(design, 400, satterthwaite).change <= 0.92
    assert coverage(design, 400).change >= least(0.94, 400)


@pytest.mark.parametrize("items", [20, 100, 400])
@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.0), (0.03, 0.01), (0.1, 0.02), (0.2, 0.1), (0.6, 0.02)])
def test_the_interval_of_one_seed_covers_also_where_few_items_change(items: int, gained: float, lost: float) -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(500):
        chance_N = rng.random(items)
        before, after = chance_N > 1 - lost, chance_N < gained
        interval = change_interval(before[None], after[None])
        inside += interval.low <= gained - lost <= interval.high
    assert inside / 500 >= least(0.94, 500)


@pytest.mark.parametrize("items", [50, 400, 2000])
def test_the_wilson_interval_covers_on_average_over_accuracies(items: int) -> None:
    """Exact: a proportion's coverage jumps with the accuracy, so single values may be some points below."""
    right = np.arange(items + 1)
    intervals = [wilson(int(count), items) for count in right]
    low, high = np.array([one.low for one in intervals]), np.array([one.high for one in intervals])
    covered = [stats.binom.pmf(right, items, p)[(low <= p) & (p <= high)].sum() for p in np.linspace(0.02, 0.98, 97)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) >= 0.90
