from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.statistics import mcnemar, paired_bootstrap, wilson

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
