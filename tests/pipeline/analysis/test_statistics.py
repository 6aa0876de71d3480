from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pipeline.analysis.statistics import (
    detectable_difference,
    holm,
    jackknife,
    mcnemar,
    over_seeds,
    paired_bootstrap,
    paired_bootstrap_over_seeds,
    pooled_mcnemar,
    variation,
    wilson,
)

Answers = NDArray[np.bool_]

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


@given(st.integers(1, 400), st.data())
def test_the_wilson_interval_contains_the_share_and_stays_in_0_to_1(total: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, total))
    interval = wilson(right, total)
    assert interval.value == right / total
    assert 0 <= interval.low <= interval.value + 1e-12
    assert interval.value - 1e-12 <= interval.high <= 1
    mirrored = wilson(total - right, total)
    assert mirrored.low == pytest.approx(1 - interval.high)


def test_the_wilson_interval_has_its_textbook_values() -> None:
    assert wilson(8, 10)[1:] == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[1:] == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_the_wilson_interval_without_items_is_0_to_1() -> None:
    nothing = wilson(0, 0)
    assert math.isnan(nothing.value)
    assert nothing[1:] == (0.0, 1.0)


@given(pairs)
def test_the_bootstrap_contains_the_change_and_is_antisymmetric(items: list[tuple[bool, bool]]) -> None:
    before, after = np.array(items).T
    change = paired_bootstrap(before, after, 500, 0)
    assert change.value == pytest.approx(after.mean() - before.mean())
    assert -1 <= change.low <= change.high <= 1
    assert change.low - 1e-9 <= change.value <= change.high + 1e-9
    assert paired_bootstrap(after, before, 500, 0).value == pytest.approx(-change.value)


@pytest.mark.parametrize(("before", "after", "change"), [(False, True, 1.0), (True, False, -1.0), (True, True, 0.0)])
def test_the_bootstrap_is_exact_if_all_items_change_alike(before: bool, after: bool, change: float) -> None:
    assert paired_bootstrap(np.full(20, before), np.full(20, after), 500, 0) == (change, change, change)


def test_the_bootstrap_repeats_with_its_seed_and_needs_two_items() -> None:
    before, after = np.array([True, False] * 20), np.array([True, True, False, True] * 10)
    assert paired_bootstrap(before, after, 500, 3) == paired_bootstrap(before, after, 500, 3)
    assert paired_bootstrap(before[:1], after[:1], 500, 3)[1:] == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 2**5), (0, 5, 2 / 2**5), (3, 1, 0.625), (9, 1, 22 / 1024)]
)
def test_the_mcnemar_p_value_is_the_binomial_one(gained: int, lost: int, p: float) -> None:
    before = np.array([False] * gained + [True] * lost + [True, False])
    after = np.array([True] * gained + [False] * lost + [True, False])
    assert mcnemar(before, after) == pytest.approx(p)


@st.composite
def several_seeds(draw: st.DrawFn, most_seeds: int = 5, most_items: int = 30) -> tuple[Answers, Answers]:
    """before_SN and after_SN."""
    seeds, items = draw(st.integers(1, most_seeds)), draw(st.integers(2, most_items))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    before, after = rng.random(2)
    return rng.random((seeds, items)) < before, rng.random((seeds, items)) < after


def drawn(rng: np.random.Generator, gain_SN: NDArray[np.float64], loss_SN: NDArray[np.float64]) -> tuple[Answers, Answers]:
    """Answers that turn right or wrong independently, with these probabilities."""
    return changed(rng.random(gain_SN.shape), gain_SN, loss_SN)


def changed(
    chance_SN: NDArray[np.float64], gain_SN: NDArray[np.float64], loss_SN: NDArray[np.float64]
) -> tuple[Answers, Answers]:
    return chance_SN > 1 - loss_SN, chance_SN < gain_SN


@given(several_seeds())
def test_the_bootstrap_over_seeds_has_the_change_and_is_antisymmetric(answers: tuple[Answers, Answers]) -> None:
    before, after = answers
    change = paired_bootstrap_over_seeds(before, after, 500, 0)
    assert change.value == pytest.approx(after.mean() - before.mean())
    assert -1 <= change.low <= change.high <= 1
    turned = paired_bootstrap_over_seeds(after, before, 4000, 0)
    straight = paired_bootstrap_over_seeds(before, after, 4000, 1)
    assert turned.value == pytest.approx(-straight.value)
    # Interval ends of small samples lie on a grid: the two directions may differ by one step of it.
    step = 4 * 1.5 / before.shape[1]
    assert (turned.low, turned.high) == pytest.approx((-straight.high, -straight.low), abs=step)


def by_hand(change_SN: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    seeds, items = change_SN.shape
    picked = ((rng.integers(seeds, size=seeds), rng.integers(items, size=items)) for _ in range(resamples))
    return np.array([change_SN[np.ix_(rows, columns)].mean() for rows, columns in picked])


def test_the_bootstrap_over_seeds_matches_a_plain_resampling_loop() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((4, 60)) < 0.4, rng.random((4, 60)) < np.array([0.4, 0.5, 0.6, 0.8])[:, None]
    means = by_hand(after.astype(float) - before, 6000, 1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert paired_bootstrap_over_seeds(before, after, 6000, 2)[1:] == pytest.approx((low, high), abs=0.015)


@given(st.integers(20, 200), st.integers(0, 2**32))
def test_the_bootstrap_over_one_seed_equals_the_plain_one(items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.random((2, items)) < rng.random((2, 1))
    over, plain = paired_bootstrap_over_seeds(before[None], after[None], 4000, 0), paired_bootstrap(before, after, 4000, 1)
    error = 0.15 * (plain.high - plain.low) + 1 / items
    assert over.value == pytest.approx(plain.value)
    assert over[1:] == pytest.approx(plain[1:], abs=error)


def test_the_bootstrap_over_seeds_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 3, 40)) < 0.5
    whole = paired_bootstrap_over_seeds(before, after, 300, 5)
    monkeypatch.setattr("pipeline.analysis.statistics._CELLS", 100)
    assert paired_bootstrap_over_seeds(before, after, 300, 5) == whole


def test_the_bootstrap_over_seeds_needs_two_items() -> None:
    before, after = np.array([[False], [False]]), np.array([[True], [False]])
    assert paired_bootstrap_over_seeds(before, after, 100, 0) == (0.5, -1.0, 1.0)
    assert math.isnan(paired_bootstrap_over_seeds(before[:, :0], after[:, :0], 100, 0).value)


def test_answers_to_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="before and after need the same seeds and items"):
        paired_bootstrap_over_seeds(np.zeros((2, 3), bool), np.zeros((2, 4), bool), 100, 0)


def test_the_bootstrap_over_seeds_has_nominal_coverage_unlike_pooling() -> None:
    """Simulation: the effect of training varies by item and by seed."""
    rng = np.random.default_rng(0)
    repetitions, seeds, items = 200, 5, 150
    over = pooled = 0
    for number in range(repetitions):
        gain_SN = np.clip(rng.beta(0.3, 1.2, items) + rng.normal(0, 0.01, (seeds, 1)), 0, 1)
        loss_SN = np.broadcast_to(rng.beta(0.2, 1.8, items) * (1 - gain_SN), gain_SN.shape)
        before, after = drawn(rng, gain_SN, loss_SN)
        truth = 0.2 - 0.1 * 0.8
        interval = paired_bootstrap_over_seeds(before, after, 400, number)
        over += interval.low <= truth <= interval.high
        naive = paired_bootstrap(before.ravel(), after.ravel(), 400, number)
        pooled += naive.low <= truth <= naive.high
    assert over / repetitions >= 0.92
    assert pooled / repetitions <= 0.85


def test_over_seeds_matches_a_hand_calculation() -> None:
    found = over_seeds([0.5, 0.6, 0.7])
    half = 4.30265 * 0.1 / math.sqrt(3)
    assert found == pytest.approx((0.6, 0.1, 0.6 - half, 0.6 + half), abs=1e-5)


def test_one_seed_has_no_spread_and_an_infinite_interval() -> None:
    alone = over_seeds([0.4])
    assert alone.mean == 0.4
    assert math.isnan(alone.spread)
    assert (alone.low, alone.high) == (-math.inf, math.inf)


@given(several_seeds(most_seeds=1, most_items=60))
def test_with_one_seed_the_pooled_p_value_is_the_mcnemar_one(answers: tuple[Answers, Answers]) -> None:
    before, after = answers
    found = pooled_mcnemar(before, after)
    assert found.p == pytest.approx(mcnemar(before[0], after[0]))
    assert found.per_seed == (mcnemar(before[0], after[0]),)
    assert (found.gained, found.lost) == ((~before & after).sum(), (before & ~after).sum())


@given(several_seeds(most_seeds=4, most_items=9))
def test_the_pooled_p_value_is_an_exact_sign_flip_test(answers: tuple[Answers, Answers]) -> None:
    before, after = answers
    net = (after.astype(int) - before).sum(0)
    sums = [abs(int((np.array(signs) * net).sum())) for signs in itertools.product((-1, 1), repeat=len(net))]
    assert pooled_mcnemar(before, after).p == pytest.approx(np.mean([value >= abs(net.sum()) for value in sums]))
    assert pooled_mcnemar(after, before).p == pooled_mcnemar(before, after).p


def test_repeating_a_seed_does_not_lower_the_pooled_p_value() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((1, 80)) < 0.4, rng.random((1, 80)) < 0.55
    once, thrice = pooled_mcnemar(before, after), pooled_mcnemar(before.repeat(3, 0), after.repeat(3, 0))
    assert thrice.p == pytest.approx(once.p)
    assert mcnemar(before.repeat(3, 0).ravel(), after.repeat(3, 0).ravel()) < once.p


def test_the_pooled_p_value_is_calibrated_against_a_shared_base() -> None:
    """Null hypothesis: base and all seeds answer each item right with the same probability."""
    rng = np.random.default_rng(0)
    ours, signs = [], []
    for _ in range(300):
        right_N = rng.choice([0.1, 0.2], size=200)
        base, students = rng.random(200) < right_N, rng.random((5, 200)) < right_N
        found = pooled_mcnemar(np.broadcast_to(base, students.shape), students)
        ours.append(found.p)
        signs.append(stats.binomtest(found.gained, found.gained + found.lost).pvalue)
    assert np.mean(np.array(ours) < 0.05) <= 0.08
    assert np.mean(np.array(signs) < 0.05) >= 0.5


probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(probabilities)
def test_holm_keeps_the_order_and_never_lowers_a_p_value(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for plain, value in zip(p_values, corrected, strict=True):
        assert plain <= value <= min(1, plain * len(p_values))
    ranked = sorted(zip(p_values, corrected, strict=True))
    assert [value for _, value in ranked] == sorted(corrected)
    # Holm is never less strict than Benjamini-Hochberg.
    others = stats.false_discovery_control(p_values)
    assert all(mine >= other - 1e-12 for mine, other in zip(corrected, others, strict=True))


@given(probabilities, st.floats(0, 1), st.data())
def test_holm_is_monotone_in_every_p_value(p_values: list[float], larger: float, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(p_values) - 1))
    raised = [max(p, larger) if number == index else p for number, p in enumerate(p_values)]
    assert all(after >= before for before, after in zip(holm(p_values), holm(raised), strict=True))


def test_holm_matches_a_hand_calculation() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(several_seeds(most_seeds=1))
def test_the_discordance_of_one_seed_is_its_share_of_changed_items(answers: tuple[Answers, Answers]) -> None:
    before, after = answers
    found = variation(before, after)
    assert found.discordance == pytest.approx((before != after).mean())
    assert math.isnan(found.seeds_spread)


def test_the_seed_spread_excludes_item_noise() -> None:
    rng = np.random.default_rng(0)
    shift_S1 = rng.normal(0, 0.05, (4000, 1))
    before, after = drawn(rng, 0.3 + shift_S1 + np.zeros(100), np.full((4000, 100), 0.2))
    plain = float((after.astype(float) - before).mean(1).std(ddof=1))
    assert variation(before, after).seeds_spread == pytest.approx(0.05, abs=0.006)
    assert plain > 0.08


def test_without_seed_spread_the_detectable_difference_is_the_textbook_one() -> None:
    assert detectable_difference(0.2, 400, 0.0, 1) == pytest.approx((1.959964 + 0.841621) * math.sqrt(0.2 / 400), rel=1e-5)


def test_with_seed_spread_only_the_detectable_difference_is_a_t_test() -> None:
    wanted = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) * 0.03 / math.sqrt(5)
    assert detectable_difference(0.2, 10**12, 0.03, 5) == pytest.approx(wanted, rel=1e-4)


def test_one_seed_detects_nothing_if_seeds_vary() -> None:
    assert detectable_difference(0.2, 400, 0.02, 1) == math.inf


@given(st.floats(0.01, 1), st.integers(10, 2000), st.floats(0.001, 0.2), st.integers(2, 20))
def test_the_detectable_difference_falls_with_more_data_and_less_spread(
    share: float, items: int, spread: float, seeds: int
) -> None:
    found = detectable_difference(share, items, spread, seeds)
    assert detectable_difference(share, items, spread, seeds + 1) < found
    assert detectable_difference(share, items, spread * 0.9, seeds) < found
    assert detectable_difference(share, items, spread, seeds, power=0.9) > found
    assert detectable_difference(share, items, spread, seeds, alpha=0.01) > found


@pytest.mark.parametrize(("shared", "spread", "seeds"), [(True, 0.0, 1), (True, 0.0, 5), (False, 0.04, 5), (True, 0.06, 8)])
def test_a_detectable_difference_is_detected_with_80_percent_power(shared: bool, spread: float, seeds: int) -> None:
    """Items change alike in all seeds or independently in each; t test with Satterthwaite's degrees of freedom."""
    rng = np.random.default_rng(0)
    repetitions, items, share = 400, 300, 0.3
    discordance = share if shared else share / seeds
    difference = detectable_difference(discordance, items, spread, seeds)
    seen = 0
    for _ in range(repetitions):
        gain_S1 = ((share + difference) / 2 + rng.normal(0, spread, seeds) / 2)[:, None]
        chance_SN = rng.random((1 if shared else seeds, items)) + np.zeros((seeds, 1))
        before, after = changed(chance_SN, gain_S1, share - gain_S1)
        measured = variation(before, after)
        between = 0.0 if seeds == 1 else measured.seeds_spread**2 / seeds
        variance = measured.discordance / items + between
        freedom = math.inf if between == 0 else (seeds - 1) * (variance / between) ** 2
        seen += (after.mean() - before.mean()) / math.sqrt(variance) > stats.t.ppf(0.975, freedom)
    assert seen / repetitions == pytest.approx(0.8, abs=0.07)


def test_the_jackknife_error_counts_units_and_not_their_copies() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for seed in range(60):
        value_U = rng.normal(size=50)
        value_B, unit_B = np.repeat(value_U, 4), np.repeat(np.arange(50), 4)
        found = jackknife(lambda rows, value_B=value_B: float(value_B[rows].mean()), unit_B, seed)  # type: ignore[misc]
        assert found.value == pytest.approx(value_U.mean())
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(1 / math.sqrt(50), rel=0.1)


def test_the_jackknife_error_of_one_unit_is_nan() -> None:
    assert jackknife(lambda rows: 3.0, np.zeros(5, int), 0) == (3.0, pytest.approx(float("nan"), nan_ok=True))
    assert np.isnan(jackknife(lambda rows: 3.0, np.zeros(0, int), 0)).all()
