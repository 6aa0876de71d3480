from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from stages.sampling import sample_seed

names = st.text(max_size=20)


@given(st.tuples(st.integers(), names, names, st.integers(0, 99)), st.tuples(st.integers(), names, names, st.integers(0, 99)))
def test_a_seed_belongs_to_one_sample(one: tuple[int, str, str, int], other: tuple[int, str, str, int]) -> None:
    assert (sample_seed(*one) == sample_seed(*other)) == (one == other)
    assert 0 <= sample_seed(*one) < 2**31


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert sample_seed(0, "q", "formal", 0) == sample_seed(0, "q", "formal", 0) == 976521057
