"""Confidence intervals and paired tests on identical items, for one trained model or several seeds; scipy does the computation.

The data are correct/incorrect results on the same N items, one row per seed for S seeds. All comparisons are about the change D = after −
before, which is -1, 0 or +1 per seed and item. Two factors vary: the items of the benchmark and the trained seeds. A reader wants to know
what another training and another benchmark of the same kind would show, so both are samples of a population here. Only with one seed there
is nothing to say about others: intervals and p-values then hold for that trained model.

- `wilson`, `mcnemar`: the proportion and the exact test of one trained model.
- `accuracy_interval`, `change_interval`, `change_p`: an accuracy, a change and its p-value, for other seeds and other items.
- `sampled_change`: a change in pass@1 over sampled answers and its p-value, for other items and draws, of two trained models.
- `interval_from_parts`: the same from means and variances, where the answers are not at hand.
- `jackknife`: the standard error of any figure over questions, for these models.
- `holm` corrects for multiple arms; `detectable_difference` gives the smallest difference that a benchmark of a given size can detect.

**The interval.** Let x be the accuracy or the change of seed s on item i. In x = μ + seed + item + rest, the items are the same in all
seeds, so the item's share of the error does not shrink with more seeds, while the rest does. From the two-way analysis of variance,

    V_S = (variance of the S seed means)/S          estimates  σ²_seed/S + σ²_rest/(S·N)
    V_I = (variance of the N item means)/N          estimates  σ²_item/N + σ²_rest/(S·N)
    V_R = (mean square of the rest)/(S·N)           estimates  σ²_rest/(S·N)

    half² = t²_{S−1}·V_S + t²_{N−1}·max(V_I − V_R, V_0)

The spread between seeds already contains the rest, but not the items, so the items' own part is V_I − V_R. The squares of the two half
widths add (MOVER: Graybill and Wang 1980, Zou and Donner 2008), each with its own degrees of freedom.

Wald intervals are too narrow if hardly any item changes. Two items are therefore added to the centre, one gained and one lost in every
seed (Bonett and Price 2012); for an accuracy four, two correct and two wrong (Agresti and Coull 1998). V_0 is the items' part of these
alone. With one seed only the items' part remains and contains the added ones: Bonett and Price's interval for paired proportions. The
value beside an interval is the plain mean.

Coverage in simulation, `tests/pipeline/analysis/test_coverage.py` (2 to 10 seeds that spread by 0 to 10 points, 50 to 2,000 items): 94 to
98 %, and up to 99 % with two or three seeds that hardly differ. What it replaces covers less where seeds differ by 4 points or more: a
bootstrap over seeds and items 56 to 85 % with two seeds and 84 to 92 % with five, from 400 items on; one t quantile with Satterthwaite's
degrees of freedom 87 to 92 % with two seeds, because seeds that agree by chance make the variance small and the degrees of freedom large.
A limit: seed means are taken as about normal; near 90 % correct with seeds that spread by 10 points, an accuracy's interval covers 89 to
92 %.

Axes: S seeds, N items, C draws, U units (in `jackknife`), B rows, G points of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

_LEVEL: Final = 0.05
_SMALLEST: Final = 1e-300
_POINTS: Final = 2000


class Interval(NamedTuple):
    """A value, usually a share or a change of one, with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(right: int, total: int) -> Interval:
    """Wilson's 95 % interval of a proportion; (nan, 0, 1) without items."""
    if total == 0:
        return Interval(float("nan"), 0.0, 1.0)
    interval = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    return Interval(right / total, float(interval.low), float(interval.high))


def _change(before_SN: NDArray[np.bool_], after_SN: NDArray[np.bool_]) -> NDArray[np.float64]:
    if before_SN.shape != after_SN.shape or before_SN.ndim != 2:
        raise ValueError(f"shapes {before_SN.shape} and {after_SN.shape}: before and after need the same seeds and items")
    change_SN: NDArray[np.float64] = after_SN.astype(np.float64) - before_SN.astype(np.float64)
    return change_SN


class _Parts(NamedTuple):
    """An interval's centre, and the variance that seeds and items contribute to it."""

    centre: float
    seeds: float
    items: float


def _parts(values_SN: NDArray[np.float64], added: Sequence[float]) -> _Parts:
    """Parts of the values' mean; `added` are the values of the items that are added to the centre, and to the items' part if S = 1."""
    seeds, items = values_SN.shape
    item_N = values_SN.mean(0)
    extended = np.concatenate([item_N, np.asarray(added, float)])
    centre = float(extended.mean())
    if seeds < 2:
        return _Parts(centre, 0.0, float(extended.var(ddof=1)) / len(extended))
    of_seeds, of_items = float(values_SN.mean(1).var(ddof=1)) / seeds, float(item_N.var(ddof=1)) / items
    squares = float((values_SN * values_SN).sum()) - seeds * items * float(item_N.mean()) ** 2
    squares -= seeds * items * ((seeds - 1) * of_seeds + (items - 1) * of_items)
    rest = max(0.0, squares) / ((seeds - 1) * (items - 1) * seeds * items)
    least = float(np.var(added)) * len(added) / len(extended) ** 2 if len(added) else 0.0
    return _Parts(centre, of_seeds, max(of_items - rest, least))


@lru_cache(maxsize=4096)
def _quantile(alpha: float, freedom: int) -> float:
    """Two-sided t quantile."""
    return float(stats.t.isf(alpha / 2, freedom))


def _half_width(parts: _Parts, seeds: int, items: int, alpha: float) -> float:
    of_seeds = _quantile(alpha, seeds - 1) * math.sqrt(parts.seeds) if parts.seeds else 0.0
    return math.hypot(of_seeds, _quantile(alpha, items - 1) * math.sqrt(parts.items))


def _interval(values_SN: NDArray[np.float64], added: Sequence[float], lowest: float) -> Interval:
    seeds, items = values_SN.shape
    if not seeds or items < 2:
        return Interval(float(values_SN.mean()) if values_SN.size else float("nan"), lowest, 1.0)
    parts = _parts(values_SN, added)
    half = _half_width(parts, seeds, items + len(added), _LEVEL)
    return Interval(float(values_SN.mean()), max(lowest, parts.centre - half), min(1.0, parts.centre + half))


def accuracy_interval(right_SN: NDArray[np.bool_]) -> Interval:
    """Mean accuracy over S seeds and N items, with its 95 % interval for other seeds and other items (formula above).

    With one seed the interval holds for that trained model on other items; `wilson` is the better one then. With fewer than two items it
    is (0, 1).
    """
    return _interval(right_SN.astype(np.float64), (1, 1, 0, 0), 0.0)


def change_interval(before_SN: NDArray[np.bool_], after_SN: NDArray[np.bool_]) -> Interval:
    """Mean of after − before over S seeds and N items, with its 95 % interval for other seeds and other items (formula above).

    Row s of both is paired: what both arms of a seed share, such as the teacher's samples, cancels. With one seed the interval holds for
    these two trained models on other items. With fewer than two items it is (-1, 1).

    Raises:
        ValueError: the shapes differ or are not (S, N).
    """
    return _interval(_change(before_SN, after_SN), (1, -1), -1.0)


def change_p(before_SN: NDArray[np.bool_], after_SN: NDArray[np.bool_]) -> float:
    """Two-sided p-value that before and after do not differ on average, for other seeds and other items.

    It is the level at which `change_interval` would just reach zero, so p < 0.05 means that the 95 % interval excludes zero. With one seed
    it is McNemar's exact p-value of these two trained models.

    Raises:
        ValueError: the shapes differ or are not (S, N).
    """
    change_SN = _change(before_SN, after_SN)
    seeds, items = change_SN.shape
    if seeds == 1:
        return mcnemar(before_SN[0], after_SN[0])
    if not seeds or items < 2:
        return 1.0
    return _p_value(_parts(change_SN, (1, -1)), seeds, items + 2)


def _p_value(parts: _Parts, seeds: int, items: int) -> float:
    """The level at which an interval around the mean reaches zero."""

    def beyond(exponent: float) -> float:
        return _half_width(parts, seeds, items, 10.0**exponent) - abs(parts.centre)

    least = math.log10(_SMALLEST)
    if beyond(0.0) >= 0:
        return 1.0
    return _SMALLEST if beyond(least) <= 0 else float(10.0 ** optimize.brentq(beyond, least, 0.0))


class Tested(NamedTuple):
    """A 95 % interval and the two-sided p-value of zero."""

    interval: Interval
    p: float


def sampled_change(before_NC: NDArray[np.bool_], after_NC: NDArray[np.bool_]) -> Tested:
    """Mean of after − before in pass@1, with its 95 % interval and p-value for other items and other draws.

    Item n of both is paired; its C draws are nested in it, so the variance between the items' mean changes contains that of the draws. Two
    items are added to the centre and to the variance, one gained and one lost in every draw, as above; with one draw of each it is
    `change_interval` of one seed. The numbers of draws may differ. With fewer than two items the interval is (-1, 1) and p is 1.

    Raises:
        ValueError: the numbers of items differ.
    """
    if len(before_NC) != len(after_NC):
        raise ValueError(f"{len(before_NC)} and {len(after_NC)} items: before and after need the same items")
    change_SN = (after_NC.mean(1) - before_NC.mean(1))[None]
    interval = _interval(change_SN, (1, -1), -1.0)
    p = 1.0 if len(before_NC) < 2 else _p_value(_parts(change_SN, (1, -1)), 1, len(before_NC) + 2)
    return Tested(interval, p)


def interval_from_parts(values_S: Sequence[float], items_variance: float, items: int) -> Tested:
    """The interval and p-value of the mean of one figure per seed, if the answers to the N items are not at hand.

    `items_variance` is what the items contribute to the variance of the mean: V_I − V_R above, or an upper bound of it.

    Raises:
        ValueError: fewer than two seeds or items.
    """
    if len(values_S) < 2 or items < 2:
        raise ValueError(f"{len(values_S)} seeds and {items} items: at least two of each are needed")
    seeds, values = len(values_S), np.asarray(values_S, float)
    parts = _Parts(float(values.mean()), float(values.var(ddof=1)) / seeds, items_variance)
    half = _half_width(parts, seeds, items, _LEVEL)
    return Tested(Interval(parts.centre, parts.centre - half, parts.centre + half), _p_value(parts, seeds, items))


def mcnemar(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """Exact two-sided p-value of McNemar's test on the discordant items; 1 if there are none."""
    gained = int((~before & after).sum())
    lost = int((before & ~after).sum())
    return 1.0 if gained + lost == 0 else float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


class Estimate(NamedTuple):
    """A figure and its standard error; both nan if not computable."""

    value: float
    error: float


def jackknife(
    figure: Callable[[NDArray[np.bool_]], float], unit_B: NDArray[np.integer], seed: int, groups: int = 10
) -> Estimate:
    """A figure of B rows with its standard error over the units of the rows, for example questions.

    `figure` computes it from the rows that its argument selects. Units are assigned to groups at random and each group is left out once
    (delete-group jackknife: Shao and Tu 1995). A bootstrap is not suitable: duplicated rows lower a rank and raise a similarity.
    """
    units, place_B = np.unique(unit_B, return_inverse=True)
    groups = min(groups, len(units))
    value = figure(np.ones(len(unit_B), np.bool_)) if len(units) else float("nan")
    if groups < 2:
        return Estimate(value, float("nan"))
    group_U = np.random.default_rng(seed).permutation(len(units)) % groups
    left_out = np.array([figure(group_U[place_B] != group) for group in range(groups)])
    return Estimate(value, math.sqrt((groups - 1) * float(left_out.var())))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-corrected p-values (Holm 1979), in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected


class Variation(NamedTuple):
    """Measured inputs of `detectable_difference`: variation between items and between seeds."""

    discordance: float
    seeds_spread: float


def variation(before_SN: NDArray[np.bool_], after_SN: NDArray[np.bool_]) -> Variation:
    """Discordance and seed standard deviation of a comparison; the second is nan with one seed, both with fewer than two items.

    For one seed the discordance is the share of items on which before and after differ. For S seeds it is the mean over items of the
    squared change that all seeds have in common (an item's change averaged over seeds, without the rest; not below zero). The standard
    deviation is that of the seeds' mean changes.

    Raises:
        ValueError: the shapes differ or are not (S, N).
    """
    change_SN = _change(before_SN, after_SN)
    seeds, items = change_SN.shape
    if not seeds or items < 2:
        return Variation(float("nan"), float("nan"))
    parts = _parts(change_SN, ())
    if seeds < 2:
        return Variation(float((change_SN**2).mean()), float("nan"))
    return Variation(parts.items * items + parts.centre**2, math.sqrt(parts.seeds * seeds))


def detectable_difference(
    discordance: float, items: int, seeds_spread: float, seeds: int, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest true difference of two arms whose interval excludes zero with this power, at level `alpha`.

    With discordance d and seed standard deviation s (as measured by `variation`), N items and S seeds, the mean change varies by V = d/N +
    s²/S. d/N is the items' part without a true difference, as in McNemar's test, and taken as known. The spread that is measured varies:
    the half width of an interval is h(c)² = z²·d/N + t²_{S−1}·c·s²/S with c = χ²_{S−1}/(S − 1). The result is the δ that solves

        mean over c of Φ((δ − h(c))/√V) = power

    With s = 0 it is (z_{1−α/2} + z_power)·√(d/N); with s alone it is that of the t-test. It is infinite with one seed and s > 0: one seed
    cannot separate an arm's effect from chance. A result larger than d means that no difference is detectable unless the arms disagree
    more often, since a difference is never larger than the discordance.
    """
    between, within = seeds_spread**2 / seeds, discordance / items
    if between == 0:
        return float(stats.norm.isf(alpha / 2) + stats.norm.ppf(power)) * math.sqrt(within)
    if seeds == 1:
        return math.inf
    spread_G = stats.chi2.ppf((np.arange(_POINTS) + 0.5) / _POINTS, seeds - 1) / (seeds - 1)
    half_G = np.sqrt(stats.norm.isf(alpha / 2) ** 2 * within + _quantile(alpha, seeds - 1) ** 2 * between * spread_G)
    deviation = math.sqrt(within + between)

    def missing(difference: float) -> float:
        return power - float(stats.norm.cdf((difference - half_G) / deviation).mean())

    return float(optimize.brentq(missing, 0.0, float(half_G.max()) + 10 * deviation))
