from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.generation.repetition import LOOPING, repetition
from tests.support.runs import REPOSITORY

RECORDED = ("bbh", "gsm8k")


@given(st.text("abcde ", min_size=8, max_size=300), st.integers(1, 40))
def test_a_text_that_is_said_again_and_again_is_a_loop(said: str, words: int) -> None:
    once = " ".join(said.split()[:words]) + " ; "
    assert repetition("Let us see. " + once * 200) > LOOPING


@pytest.mark.parametrize(
    "count_on", ["{n}. The answer is 12.\n", "Step {n}: the next clue is: the dancers are the same.\n", "{n} "]
)
def test_a_loop_that_counts_on_is_a_loop(count_on: str) -> None:
    assert repetition("".join(count_on.format(n=number) for number in range(60))) > LOOPING


def test_a_loop_of_a_whole_paragraph_is_a_loop() -> None:
    words = [f"word{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(240)]
    assert repetition(" ".join(words * 5)) > LOOPING


@pytest.mark.parametrize("text", ["", "42", "The answer is 12.", "a a a a a a a a a", "\n" * 5000])
def test_a_short_text_is_no_loop(text: str) -> None:
    assert repetition(text) == 0


@pytest.mark.parametrize("data", RECORDED)
def test_no_recorded_rationale_is_a_loop(data: str) -> None:
    table = pq.read_table(REPOSITORY / "configs" / "data" / data / "rationales.parquet")
    assert max(repetition(text) for text in table["rationale"].to_pylist()[::4]) < LOOPING


@given(st.text(max_size=400), st.text(max_size=200))
def test_only_the_end_counts(before: str, text: str) -> None:
    """The measure is a share, and what stands a long way before the end does not change it."""
    end = text + " x" * 8 + "".join(f" w{chr(97 + n // 676)}{chr(97 + n // 26 % 26)}{chr(97 + n % 26)}" for n in range(1100))
    assert repetition(before + end) == repetition(end) == 0
    assert 0 <= repetition(text) <= 1
