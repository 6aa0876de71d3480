"""Numbers in words."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grading.wording.number_words import leading_number

UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def _spelled(value: int) -> str:
    """`value` in English, below a million."""
    if value < 20:
        return UNITS[value]
    if value < 100:
        return TENS[value // 10 - 2] + (f"-{UNITS[value % 10]}" if value % 10 else "")
    size, name = (100, "hundred") if value < 1000 else (1000, "thousand")
    rest = f" {_spelled(value % size)}" if value % size else ""
    return f"{_spelled(value // size)} {name}{rest}"


@given(st.integers(0, 999_999), st.booleans())
def test_a_spelled_number_is_read_back(value: int, negative: bool) -> None:
    sign = "minus " if negative else ""
    assert leading_number(f"{sign}{_spelled(value)} apples") == (-value if negative else value)


@given(st.integers(2, 19), st.sampled_from([("thirds", 3), ("quarters", 4), ("fifths", 5), ("tenths", 10)]))
def test_a_spelled_fraction_is_read_whole(top: int, part: tuple[str, int]) -> None:
    assert leading_number(f"{UNITS[top]} {part[0]} of the cake") == Fraction(top, part[1])


@pytest.mark.parametrize(
    "text", ["one of these", "two or three", "a dozen", "five fifty", "one in five", "two times x", "apples", "ten minus 8", ""]
)
def test_a_part_of_a_number_is_none(text: str) -> None:
    assert leading_number(text) is None
