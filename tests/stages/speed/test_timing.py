"""Timing: sides alternate, the first repeat is discarded, and ratios compare equal repeats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.speed.timing import rates, ratio


def test_sides_alternate_and_each_repeat_starts_with_the_other_side() -> None:
    order: list[str] = []

    def side(name: str, work: float) -> float:
        order.append(name)
        sum(range(30_000))  # takes a measurable time
        return work

    found = rates({"a": lambda: side("a", 1), "b": lambda: side("b", 2)}, 3, lambda line: None)
    assert "".join(order) == "baabbaab"
    assert [len(values) for values in found.values()] == [3, 3]


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=9), st.floats(0.1, 100))
def test_a_constant_speed_factor_is_the_ratio(other: list[float], factor: float) -> None:
    found = ratio([rate * factor for rate in other], other)
    assert found.median == pytest.approx(factor)
    assert found.low == pytest.approx(factor)
    assert found.high == pytest.approx(factor)
