from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pipeline.analysis.statistics import (
    accuracy_interval,
    change_interval,
    change_p,
    detectable_difference,
    holm,
    interval_from_parts,
    jackknife,
    mcnemar,
    variation,
    wilson,
)

Answers = NDArray[np.bool_]


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
def test_the_interval_has_the_change_and_is_antisymmetric(answers: tuple[Answers, Answers]) -> None:
    before, after = answers
    change = change_interval(before, after)
    assert change.value == pytest.approx(after.mean() - before.mean())
    assert -1 <= change.low <= change.high <= 1
    assert change_interval(after, before) == pytest.approx((-change.value, -change.high, -change.low))
    assert change_p(after, before) == pytest.approx(change_p(before, after))


@given(st.integers(2, 60), st.integers(0, 2**32))
def test_the_interval_of_one_seed_contains_its_change_and_is_not_empty(items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.random((2, 1, items)) < rng.random((2, 1, 1))
    change = change_interval(before, after)
    assert change.low <= change.value <= change.high
    assert change.high - change.low >= 2 / (items + 2)


@given(st.integers(2, 60), st.integers(1, 5), st.booleans())
def test_the_interval_without_any_variation_is_about_three_items_wide(items: int, seeds: int, right: bool) -> None:
    same = np.full((seeds, items), right)
    change, accuracy = change_interval(same, same), accuracy_interval(same)
    assert change.value == 0
    assert 2 / items < change.high - change.low < 20 / items + 1e-9
    assert accuracy.value == right
    assert accuracy.low <= right <= accuracy.high


def test_the_interval_of_one_seed_is_bonett_and_prices() -> None:
    before, after = np.zeros((1, 98), bool), np.zeros((1, 98), bool)
    before[0, :9], after[0, 9:28] = True, True
    gained, lost = 20 / 100, 10 / 100
    half = stats.t.ppf(0.975, 99) * math.sqrt((gained + lost - (gained - lost) ** 2) / 99)
    assert change_interval(before, after) == pytest.approx((10 / 98, 0.1 - half, 0.1 + half))


def test_the_interval_matches_a_hand_calculation() -> None:
    rng = np.random.default_rng(0)
    gain_N = rng.random(80)
    before, after = rng.random((3, 80)) < 0.2, rng.random((3, 80)) < gain_N * np.array([0.8, 0.9, 1.0])[:, None]
    change_SN = after.astype(float) - before
    of_seeds, of_items = change_SN.mean(1).var(ddof=1) / 3, change_SN.mean(0).var(ddof=1) / 80
    rest_SN = change_SN - change_SN.mean(1)[:, None] - change_SN.mean(0) + change_SN.mean()
    of_items -= (rest_SN**2).sum() / (2 * 79) / (3 * 80)
    assert of_items > 0
    half = math.sqrt(stats.t.ppf(0.975, 2) ** 2 * of_seeds + stats.t.ppf(0.975, 81) ** 2 * of_items)
    centre = change_SN.mean() * 80 / 82
    assert change_interval(before, after)[1:] == pytest.approx((centre - half, centre + half))
    assert interval_from_parts(list(change_SN.mean(1)), of_items, 82).interval == pytest.approx(
        (change_SN.mean(), change_SN.mean() - half, change_SN.mean() + half)
    )


@given(several_seeds())
def test_p_is_below_5_percent_if_and_only_if_the_interval_excludes_zero(answers: tuple[Answers, Answers]) -> None:
    before, after = answers
    if len(before) > 1:
        change = change_interval(before, after)
        assert (change_p(before, after) < 0.05) == (change.low > 0 or change.high < 0)


def test_p_of_one_seed_is_the_mcnemar_one() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((1, 80)) < 0.4, rng.random((1, 80)) < 0.6
    assert change_p(before, after) == mcnemar(before[0], after[0])


def test_p_of_a_clear_difference_is_small_and_never_zero() -> None:
    assert 0 < change_p(np.zeros((5, 900), bool), np.ones((5, 900), bool)) < 1e-20
    assert 0 < interval_from_parts([0.2, 0.2, 0.2], 0.0, 400).p < 1e-20
    assert change_p(np.zeros((5, 900), bool), np.zeros((5, 900), bool)) == 1


def test_seeds_alone_give_the_t_interval() -> None:
    half = 4.30265 * 0.1 / math.sqrt(3)
    assert interval_from_parts([0.5, 0.6, 0.7], 0.0, 400).interval == pytest.approx((0.6, 0.6 - half, 0.6 + half), abs=1e-5)
    assert interval_from_parts([-0.1, 0.0, 0.1], 0.0, 400).p == pytest.approx(1.0)
    assert interval_from_parts([0.5, 0.6, 0.7], 0.0, 400).p == pytest.approx(
        stats.ttest_1samp([0.5, 0.6, 0.7], 0).pvalue, rel=1e-6
    )


def test_intervals_need_two_items_and_parts_two_seeds() -> None:
    before, after = np.array([[False], [False]]), np.array([[True], [False]])
    assert change_interval(before, after) == (0.5, -1.0, 1.0)
    assert change_p(before, after) == 1
    assert math.isnan(change_interval(before[:, :0], after[:, :0]).value)
    assert accuracy_interval(after) == (0.5, 0.0, 1.0)
    with pytest.raises(ValueError, match="at least two"):
        interval_from_parts([0.5], 0.01, 100)


def test_answers_to_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="before and after need the same seeds and items"):
        change_interval(np.zeros((2, 3), bool), np.zeros((2, 4), bool))


def test_repeating_a_seed_changes_neither_the_value_nor_the_items_part() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((1, 80)) < 0.4, rng.random((1, 80)) < 0.55
    once, thrice = change_interval(before, after), change_interval(before.repeat(3, 0), after.repeat(3, 0))
    assert thrice.value == once.value
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.06)


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


def test_the_discordance_of_several_seeds_leaves_out_what_they_do_not_share() -> None:
    rng = np.random.default_rng(0)
    alone_SN = np.zeros((40, 4000))
    apart = variation(*drawn(rng, alone_SN + 0.3, alone_SN + 0.2))
    assert apart.discordance == pytest.approx(0.1**2, abs=0.005)
    chance_N = rng.random(4000)
    shared = variation(*changed(np.broadcast_to(chance_N, alone_SN.shape), alone_SN + 0.3, alone_SN + 0.2))
    assert shared.discordance == pytest.approx(0.5, abs=0.03)


def test_the_seed_spread_is_that_of_the_mean_changes() -> None:
    before, after = np.zeros((2, 100), bool), np.zeros((2, 100), bool)
    after[0, :20], after[1, :30] = True, True
    assert variation(before, after).seeds_spread == pytest.approx(np.std([0.2, 0.3], ddof=1))


def test_without_seed_spread_the_detectable_difference_is_the_textbook_one() -> None:
    assert detectable_difference(0.2, 400, 0.0, 1) == pytest.approx((1.959964 + 0.841621) * math.sqrt(0.2 / 400), rel=1e-5)


def test_with_seed_spread_only_the_detectable_difference_is_a_t_test() -> None:
    found = detectable_difference(0.2, 10**12, 0.03, 5)
    power = 1 - stats.nct.cdf(stats.t.ppf(0.975, 4), 4, found * math.sqrt(5) / 0.03)
    assert power == pytest.approx(0.8, abs=0.002)


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


@pytest.mark.parametrize(("spread", "seeds"), [(0.0, 5), (0.04, 5), (0.06, 8), (0.02, 3)])
def test_a_detectable_difference_is_detected_with_80_percent_power(spread: float, seeds: int) -> None:
    """Items change alike in all seeds, up to the seeds' own gains."""
    rng = np.random.default_rng(0)
    repetitions, items, share = 400, 300, 0.3
    difference = detectable_difference(share, items, spread, seeds)
    seen = 0
    for _ in range(repetitions):
        gain_S1 = ((share + difference) / 2 + rng.normal(0, spread, seeds) / 2)[:, None]
        chance_SN = rng.random((1, items)) + np.zeros((seeds, 1))
        seen += change_interval(*changed(chance_SN, gain_S1, share - gain_S1)).low > 0
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
