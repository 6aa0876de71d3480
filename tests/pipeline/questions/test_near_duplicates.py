"""Near-duplicate questions are found by Jaccard similarity, and the kept question is named."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.questions.contamination import words_of
from pipeline.questions.near_duplicates import KeptQuestions
from pipeline.questions.question import Question


def question(number: int, text: str) -> Question:
    return Question(f"q{number}", text, "7", "number")


def runs(text: str) -> set[tuple[str, ...]]:
    words = words_of(question(0, text))
    return {tuple(words[first : first + 3]) for first in range(max(1, len(words) - 2))}


def jaccard(one: str, other: str) -> float:
    return len(runs(one) & runs(other)) / len(runs(one) | runs(other))


WORDS = [f"word{number}" for number in range(60)]
texts = st.permutations(WORDS).map(" ".join)


@given(texts, st.integers(0, 59), st.randoms())
def test_near_duplicates_are_found_and_distinct_questions_are_not(text: str, changed: int, random: Any) -> None:
    one_word = " ".join("other" if n == changed else word for n, word in enumerate(text.split()))
    assert jaccard(text, one_word) > 0.85
    staying = KeptQuestions(0.7)
    assert staying.alike(question(0, text)) is None
    shuffled = text.split()
    random.shuffle(shuffled)
    for number, other in ((1, text.upper()), (2, one_word), (3, " ".join(shuffled))):
        match = staying.alike(question(number, other))
        if jaccard(text, other) > 0.85:
            assert match is not None
            assert (match.question_id, match.kept_id) == (f"q{number}", "q0")
            assert abs(match.similarity - jaccard(text, other)) < 0.2
        elif jaccard(text, other) < 0.5:
            assert match is None


def test_the_most_similar_question_is_named_and_short_ones_compare() -> None:
    staying = KeptQuestions(0.8)
    hens = "nineteen hens lay three eggs each and a fox takes two of them"
    for number, text in enumerate(("why?", f"{hens} every day of the week without fail", f"{hens} daily")):
        staying.alike(question(number, text))
    assert staying.alike(question(3, "Why")) == ("q3", "q0", 1.0)
    match = staying.alike(question(4, f"{hens} daily."))
    assert match is not None
    assert match.similarity == 1.0
