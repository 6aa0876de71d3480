"""Contamination check: passages shared by training and evaluation questions are found and named."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.questions.contamination import Evaluated, Passages, collect, overlap, passages, words_of
from pipeline.questions.question import Question

WORDS = st.lists(st.sampled_from(["a", "cat", "sat", "on", "7", "mats", "and"]), max_size=20)


def asking(words: list[str], **more: object) -> Question:
    return Question("q", " ".join(words), "1", "number", **more)  # type: ignore[arg-type]


def known(questions: list[list[str]], length: int) -> Passages:
    named = enumerate(map(asking, questions))
    return collect(((Evaluated("set", str(n)), passages(words_of(question), length)) for n, question in named), length)


def runs(words: list[str], length: int) -> list[str]:
    return [" ".join(words[first : first + length]) for first in range(len(words) - length + 1)]


@given(WORDS, st.lists(WORDS, max_size=5), st.integers(2, 6))
def test_overlap_gives_the_first_shared_passage_and_its_question(
    words: list[str], evaluated: list[list[str]], length: int
) -> None:
    found = overlap(asking(words), known(evaluated, length))
    theirs = [runs(other, length) for other in evaluated]
    shared = [passage for passage in runs(words, length) if any(passage in other for other in theirs)]
    if not shared:
        assert found is None
    else:
        assert found is not None
        assert found.passage == shared[0]
        first = next(n for n, other in enumerate(theirs) if shared[0] in other)
        assert (found.reason, found.set, found.evaluated_id) == ("passage", "set", str(first))


def test_overlap_ignores_case_spacing_and_punctuation() -> None:
    evaluated = known([["tom", "has", "three", "red", "apples", "and", "eats", "two"]], 5)
    found = overlap(asking(["So:", "Tom  HAS", "three,", '"red"', "apples!"]), evaluated)
    assert found is not None
    assert found.passage == "tom has three red apples"
    chosen = overlap(asking(["Who?"], choices=("no", "three red apples and eats two")), evaluated)
    assert chosen is not None


def test_short_questions_share_no_passage() -> None:
    assert overlap(asking(["a", "cat"]), known([["a", "cat"]], 5)) is None
