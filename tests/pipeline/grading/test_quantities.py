"""Measures and words, and the structure of lists and groups."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipeline.grading import quantities
from pipeline.grading.grade import Outcome, canonical, grade
from pipeline.grading.structure import structure

numbers = st.integers(0, 59)


@given(numbers, numbers, numbers)
def test_every_part_of_a_measure_counts(hours: int, minutes: int, other: int) -> None:
    assert quantities.same(f"{hours} h {minutes}", f"{hours} hours {other}") == (minutes == other)
    assert not quantities.same(f"{hours} h {minutes}", f"{hours} h")


@given(st.permutations("ABCDE"), st.permutations("ABCDE"))
def test_a_string_of_letters_is_a_word(one: list[str], other: list[str]) -> None:
    graded = grade(f"\\boxed{{{''.join(one)}}}", True, "".join(other), "math")
    assert (graded.outcome is Outcome.CORRECT) == (one == other)


@given(st.lists(st.integers(-999, 999), min_size=2, max_size=4), st.sampled_from([", ", "; "]))
def test_a_list_is_never_one_number(items: list[int], separator: str) -> None:
    form = canonical(separator.join(map(str, items)), "math")
    assert form is not None
    assert structure(form).items == tuple(map(str, items))
    assert canonical(form, "math") == form


@given(st.lists(st.integers(0, 999), min_size=2, max_size=3, unique=True))
def test_lists_have_no_order_and_points_have_one(items: list[int]) -> None:
    for order in itertools.permutations(items):
        joined = ", ".join(map(str, order))
        listed = grade(f"\\boxed{{{joined}}}", True, ", ".join(map(str, items)), "math")
        pointed = grade(f"\\boxed{{({joined})}}", True, f"({', '.join(map(str, items))})", "math")
        assert listed.outcome is Outcome.CORRECT
        assert (pointed.outcome is Outcome.CORRECT) == (list(order) == items)
