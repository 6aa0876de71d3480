"""One vocabulary of doubt: a word that one place knows is known everywhere."""

from __future__ import annotations

import pytest

from pipeline.grading.grade import Outcome, grade
from pipeline.grading.wording.hedges import HEDGE

ADVERBS = ["maybe", "perhaps", "possibly", "probably", "presumably", "supposedly", "tentatively", "plausibly"]
VERBS = ["guess", "suspect", "speculate", "estimate", "bet", "imagine", "reckon", "suppose"]
DOUBTS = [
    *ADVERBS,
    *(f"I {verb}" for verb in VERBS),
    "not sure",
    "I am not certain",
    "it is hard to say",
    "no idea",
    "I don't know",
]
GOLD = {"number": "5", "boolean": "yes", "choice": "B", "date": "2021-03-04"}
CHOICES = ("a cat", "a crow")


def _outcome(text: str, kind: str) -> Outcome:
    return grade(text, True, GOLD[kind], kind, CHOICES if kind == "choice" else ()).outcome


@pytest.mark.parametrize("kind", GOLD)
@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_doubt_commits_to_nothing_wherever_it_stands(doubt: str, kind: str) -> None:
    answer = f"({GOLD[kind]})" if kind == "choice" else GOLD[kind]
    for text in (
        f"{doubt}, the answer is {answer}.",
        f"{doubt}, {answer}.",
        f"The answer is {answer}, {doubt}.",
        f"{answer}, {doubt}.",
    ):
        assert _outcome(text, kind) is Outcome.UNPARSED, text


@pytest.mark.parametrize("adverb", ADVERBS)
@pytest.mark.parametrize("kind", GOLD)
def test_an_adverb_of_doubt_beside_the_verb_commits_to_nothing(adverb: str, kind: str) -> None:
    for text in (f"The answer {adverb} is {GOLD[kind]}.", f"The answer is {adverb} {GOLD[kind]}."):
        assert _outcome(text, kind) is Outcome.UNPARSED, text


@pytest.mark.parametrize("kind", GOLD)
def test_the_same_answers_without_a_doubt_are_read(kind: str) -> None:
    answer = f"({GOLD[kind]})" if kind == "choice" else GOLD[kind]
    for text in (f"The answer is {answer}.", f"It rained, so {answer}.", f"I know that the answer is {answer}."):
        assert _outcome(text, kind) is Outcome.CORRECT, text


@pytest.mark.parametrize(
    "text", ["In May 5 came.", "It could be sold for 5.", "The suspect has 5.", "He bet 5.", "It is likely that it rains."]
)
def test_words_of_a_problem_are_no_hedge(text: str) -> None:
    assert HEDGE.search(text) is None
