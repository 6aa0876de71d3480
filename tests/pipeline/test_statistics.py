from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.statistics import holm, mcnemar, paired_bootstrap, wilson

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


@given(st.integers(1, 400), st.data())
def test_wilsons_interval_contains_the_share_and_stays_within_zero_and_one(total: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, total))
    interval = wilson(right, total)
    assert interval.value == right / total
    assert 0 <= interval.low <= interval.value + 1e-12
    assert interval.value - 1e-12 <= interval.high <= 1
    mirrored = wilson(total - right, total)
    assert mirrored.low == pytest.approx(1 - interval.high)


def test_wilsons_interval_has_its_textbook_values() -> None:
    assert wilson(8, 10)[1:] == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10)[1:] == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_without_items_nothing_is_known() -> None:
    nothing = wilson(0, 0)
    assert math.isnan(nothing.value)
    assert nothing[1:] == (0.0, 1.0)


@given(pairs)
def test_the_bootstrap_is_centred_on_the_change_and_turns_with_the_sides(items: list[tuple[bool, bool]]) -> None:
    before, after = np.array(items).T
    change = paired_bootstrap(before, after, 500, 0)
    assert change.value == pytest.approx(after.mean() - before.mean())
    assert -1 <= change.low <= change.high <= 1
    assert change.low - 1e-9 <= change.value <= change.high + 1e-9
    assert paired_bootstrap(after, before, 500, 0).value == pytest.approx(-change.value)


@pytest.mark.parametrize(("before", "after", "change"), [(False, True, 1.0), (True, False, -1.0), (True, True, 0.0)])
def test_the_bootstrap_is_exact_where_every_item_changed_alike(before: bool, after: bool, change: float) -> None:
    assert paired_bootstrap(np.full(20, before), np.full(20, after), 500, 0) == (change, change, change)


def test_the_bootstrap_repeats_with_its_seed_and_knows_one_item_is_not_enough() -> None:
    before, after = np.array([True, False] * 20), np.array([True, True, False, True] * 10)
    assert paired_bootstrap(before, after, 500, 3) == paired_bootstrap(before, after, 500, 3)
    assert paired_bootstrap(before[:1], after[:1], 500, 3)[1:] == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 2**5), (0, 5, 2 / 2**5), (3, 1, 0.625), (9, 1, 22 / 1024)]
)
def test_mcnemars_p_is_the_binomial_one(gained: int, lost: int, p: float) -> None:
    before = np.array([False] * gained + [True] * lost + [True, False])
    after = np.array([True] * gained + [False] * lost + [True, False])
    assert mcnemar(before, after) == pytest.approx(p)


probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(probabilities)
def test_holm_keeps_order_and_never_makes_a_p_smaller(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for plain, value in zip(p_values, corrected, strict=True):
        assert plain <= value <= min(1, plain * len(p_values))
    ranked = sorted(zip(p_values, corrected, strict=True))
    assert [value for _, value in ranked] == sorted(corrected)
    # Holm is never kinder than Benjamini and Hochberg.
    others = stats.false_discovery_control(p_values)
    assert all(mine >= other - 1e-12 for mine, other in zip(corrected, others, strict=True))


@given(probabilities, st.floats(0, 1), st.data())
def test_a_larger_p_makes_no_corrected_one_smaller(p_values: list[float], larger: float, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(p_values) - 1))
    raised = [max(p, larger) if number == index else p for number, p in enumerate(p_values)]
    assert all(after >= before for before, after in zip(holm(p_values), holm(raised), strict=True))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
