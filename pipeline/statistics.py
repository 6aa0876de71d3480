"""Confidence intervals and paired tests on identical items, for one trained model or several seeds; scipy does the computation.

The data are correct/incorrect results on the same N items, one row per seed for S seeds. All comparisons are about the change D = after −
before, which is -1, 0 or +1 per seed and item. Two factors vary: the items of the benchmark and the trained seeds. Each function states to
which of them it generalises.

- `mcnemar`, `pooled_mcnemar`: exact p-values for these trained models on other items of the same kind.
- `over_seeds`: a t-interval for other seeds on these items.
- `paired_bootstrap` (one seed), `paired_bootstrap_over_seeds` (several): intervals; the second generalises to other seeds and other items.
- `jackknife`: the standard error of any figure over questions, for these models.
- `holm` corrects for multiple arms; `detectable_difference` gives the smallest difference that a benchmark of a given size can detect.

Axes: S seeds, N items, R resamples, U distinct patterns of change over seeds (in `jackknife`: units), B rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_CELLS: Final = 4_000_000


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


def paired_bootstrap_over_seeds(
    before_SN: NDArray[np.bool_], after_SN: NDArray[np.bool_], resamples: int, seed: int
) -> Interval:
    """Mean of after − before over seeds and items, with the 95 % percentile interval over resampled seeds and resampled items.

    Both are drawn with replacement, independently of each other (the crossed or "pigeonhole" bootstrap: McCullagh 2000, Owen 2007).
    Of the variance's three parts it has that of items right, that of seed with item up to 3 times (no resampling of a crossed design
    is exact; this one errs towards wide), and that of seeds (S − 1)/S times. So it is too narrow for few seeds that differ much among
    themselves: simulated with 300 items it covers 93 to 98 % from three seeds on, but 88 % for two that differ by 5 points; look at
    `over_seeds` beside it. With one seed it is `paired_bootstrap` and speaks of that seed alone. With fewer than two items nothing is
    known and the interval is (-1, 1).
    """
    change_SN = _change(before_SN, after_SN)
    seeds, items = change_SN.shape
    if not seeds or items < 2:
        return Interval(float(change_SN.mean()) if change_SN.size else float("nan"), -1.0, 1.0)
    # Items that changed alike in every seed are one pattern: of it only the count matters.
    patterns_SU, counts_U = np.unique(change_SN, axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    seeds_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    means = np.empty(resamples)
    at_once = max(1, _CELLS // len(counts_U))
    for first in range(0, resamples, at_once):
        chunk_RS = seeds_RS[first : first + at_once].astype(float)
        items_RU = rng.multinomial(items, counts_U / items, size=len(chunk_RS))
        means[first : first + at_once] = ((chunk_RS @ patterns_SU) * items_RU).sum(1) / change_SN.size
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(change_SN.mean()), float(low), float(high))


def _change(before_SN: NDArray[np.bool_], after_SN: NDArray[np.bool_]) -> NDArray[np.float64]:
    if before_SN.shape != after_SN.shape or before_SN.ndim != 2:
        raise ValueError(f"shapes {before_SN.shape} and {after_SN.shape}: before and after need the same seeds and items")
    change_SN: NDArray[np.float64] = after_SN.astype(np.float64) - before_SN.astype(np.float64)
    return change_SN


class OverSeeds(NamedTuple):
    """Mean and standard deviation of a figure over seeds, with the mean's 95 % t-interval."""

    mean: float
    spread: float
    low: float
    high: float


def over_seeds(values_S: Sequence[float] | NDArray[np.float64]) -> OverSeeds:
    """Mean, spread and t-interval of one figure per seed, such as an accuracy or a change.

    About other seeds on these very items: right for few seeds, where a bootstrap of them is too narrow. It knows nothing of other items
    and is the narrower one where seeds agree. One seed has no spread (nan) and an interval without ends.
    """
    values = np.asarray(values_S, float)
    if len(values) < 2:
        return OverSeeds(float(values.mean()) if len(values) else float("nan"), float("nan"), -math.inf, math.inf)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return OverSeeds(mean, spread, mean - half, mean + half)


def mcnemar(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """Exact two-sided p-value of McNemar's test on the discordant items; 1 where there are none."""
    gained = int((~before & after).sum())
    lost = int((before & ~after).sum())
    return 1.0 if gained + lost == 0 else float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


class PooledMcNemar(NamedTuple):
    """McNemar's p for each seed and one for all; in how many items more seeds gained than lost, and the reverse."""

    per_seed: tuple[float, ...]
    p: float
    gained: int
    lost: int


def pooled_mcnemar(before_SN: NDArray[np.bool_], after_SN: NDArray[np.bool_]) -> PooledMcNemar:
    """Exact tests that before and after do not differ, for these S trained models, with the item as the unit.

    McNemar's test on all S·N pairs would count an item S times and be far too certain. An item's net change is the seeds that gained
    less those that lost. If before and after are exchangeable, its sign is as likely + as −, whatever its size and whatever the seeds
    share; so p is the chance, over all signs, of a sum at least as far from zero as the one seen (the randomisation test of Fisher and
    Pitman). Its distribution is exact: a convolution of one binomial per size. For one seed it is McNemar's exact test.

    Why not the sign test on the same net changes: where all seeds are compared with one model, such as the base, a net change is not
    symmetric even if nothing differs on average (a majority of seeds is steadier than one model), and that test then finds differences
    that are not there. A test of the sum stays right in large samples. It says nothing of seeds that were not trained.
    """
    net_N = np.rint(_change(before_SN, after_SN).sum(0)).astype(int)
    per_seed = tuple(mcnemar(before, after) for before, after in zip(before_SN, after_SN, strict=True))
    return PooledMcNemar(per_seed, _sign_flips(net_N), int((net_N > 0).sum()), int((net_N < 0).sum()))


def _sign_flips(net_N: NDArray[np.int_]) -> float:
    """Chance over independent fair signs that |Σ ±|net|| is at least |Σ net|."""
    sizes, counts = np.unique(np.abs(net_N[net_N != 0]), return_counts=True)
    chance: NDArray[np.floating[Any]] = np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        gained = np.zeros(size * count + 1)
        gained[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chance = np.convolve(chance, gained)
    total = len(chance) - 1
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(chance[np.abs(sums) >= abs(int(net_N.sum()))].sum()))


class Estimate(NamedTuple):
    """A figure and its standard error; both nan where it cannot be computed."""

    value: float
    error: float


def jackknife(
    figure: Callable[[NDArray[np.bool_]], float], unit_B: NDArray[np.integer], seed: int, groups: int = 10
) -> Estimate:
    """A figure of B rows with its standard error over the units that the rows belong to, questions for instance.

    `figure` computes it of the rows that its argument marks. Units are dealt into groups, and each group is left out once (Shao and Tu
    1995). A bootstrap would not do: rows that are drawn twice lower a rank and raise a similarity.
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
    """p-values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected


class Variation(NamedTuple):
    """What `detectable_difference` needs, as measured: variation between items and between seeds."""

    discordance: float
    seeds_spread: float


def variation(before_SN: NDArray[np.bool_], after_SN: NDArray[np.bool_]) -> Variation:
    """Discordance and seeds' spread of a comparison that was run, the second nan with one seed and both with fewer than two items.

    Discordance is the mean over items of the squared change (averaged over seeds): for one seed the share of items on which before and
    after differ; for S seeds between that share and an S-th of it. The spread is the standard deviation over seeds of the mean change,
    less what the item noise of a seed alone puts there (two-way analysis of variance, not below zero).
    """
    change_SN = _change(before_SN, after_SN)
    seeds, items = change_SN.shape
    if not seeds or items < 2:
        return Variation(float("nan"), float("nan"))
    seed_S, item_N = change_SN.mean(1), change_SN.mean(0)
    discordance = float((item_N**2).mean())
    if seeds < 2:
        return Variation(discordance, float("nan"))
    rest_SN = change_SN - seed_S[:, None] - item_N + change_SN.mean()
    noise = float((rest_SN**2).sum()) / ((seeds - 1) * (items - 1))
    return Variation(discordance, math.sqrt(max(0.0, float(seed_S.var(ddof=1)) - noise / items)))


def detectable_difference(
    discordance: float, items: int, seeds_spread: float, seeds: int, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest true difference of two arms that a benchmark sees with this power in a two-sided test at `alpha`.

    With d discordance and s seeds' spread (as `variation` measures them), N items, S seeds:

        V = d/N + s²/S,   ν = (S − 1)·(V / (s²/S))²,   δ = (t_{1−α/2, ν} + t_{power, ν})·√V

    d/N is the variance of a mean of changes where there is no difference, as in McNemar's test; ν are Satterthwaite's degrees of
    freedom, with the part of the items as known: infinitely many (the normal quantiles) if seeds do not differ, S − 1 if only seeds do.
    Infinite with one seed and a spread: one seed cannot tell an arm's worth from its luck. A result over d says that no difference is
    seen unless the arms come to disagree more often, since a difference is never larger than the discordance.
    """
    between = seeds_spread**2 / seeds
    variance = discordance / items + between
    freedom = math.inf if between == 0 else (seeds - 1) * (variance / between) ** 2
    if freedom == 0:
        return math.inf
    quantiles = float(stats.t.ppf(1 - alpha / 2, freedom) + stats.t.ppf(power, freedom))
    return quantiles * math.sqrt(variance)
