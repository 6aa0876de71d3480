"""One number: which texts are one, and which value it has."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grading.wording.numerals import CHUNK, of_chunk, spelled, whole

numbers = st.integers(0, 10**9)


@given(numbers, st.sampled_from(["", "-", "negative ", "minus "]), st.sampled_from(["", "$", "€", "US$"]))
def test_a_number_is_read_with_its_sign_and_currency(value: int, sign: str, currency: str) -> None:
    assert whole(f"{sign}{currency}{value}") == (str(-value if sign else value),)


@given(numbers)
def test_groups_of_digits_are_one_number(value: int) -> None:
    grouped = f"{value:,}"
    for mark in (",", "'", " "):
        text = grouped.replace(",", mark)
        assert whole(text) == (str(value),)
        assert [of_chunk(text, chunk) for chunk in CHUNK.finditer(text)] == [(str(value),)]


@given(st.integers(0, 99), st.integers(1, 9), st.integers(2, 9))
def test_a_percentage_and_a_scale_have_a_second_value(value: int, top: int, below: int) -> None:
    assert whole(f"{value}%") == (str(Fraction(value, 100)), str(value))
    assert whole(f"{value} million") == (str(value * 10**6), str(value))
    assert whole(f"{top}/{below}") == (str(Fraction(top, below)),)


@given(numbers, numbers, st.sampled_from(["-", ":", "/", " to ", "–", "*"]))
def test_what_touches_a_number_belongs_to_its_chunk(one: int, other: int, between: str) -> None:
    chunks = [chunk[0] for chunk in CHUNK.finditer(f"It is {one}{between}{other} here")]
    assert chunks == [f"{one}{between}{other}"]


@pytest.mark.parametrize("text", ["", "5x", "3, 4", "1/0", "10-12", "3:30", "2.5.1", "1e999", "5 apples", "seven"])
def test_what_is_not_exactly_one_number_is_none(text: str) -> None:
    assert whole(text) == ()


def test_a_number_in_words_may_be_a_percentage() -> None:
    assert spelled("twelve eggs") == ("12",)
    assert spelled("twelve per cent of it") == ("3/25", "12")
    assert spelled("eggs") == ()
