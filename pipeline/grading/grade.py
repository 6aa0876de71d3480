"""Reading a model's answer and deciding: correct, wrong, unparsed or truncated. Never merged, never guessed.

Where the answer is looked for is the matter of `reading.py`, and the rule that found it is recorded. What equal answers are is that of
one file per answer type: exact on canonical forms, with the few exceptions that `docs/grading.md` lists (our choice). A text cut off at
the token limit counts as truncated unless a boxed answer is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from pipeline.grading import expressions, free_text
from pipeline.grading.choices import LETTERS as LETTERS
from pipeline.grading.reading import kind_of, read
from pipeline.grading.rounding import equal_up_to_rounding

ANSWER_TYPES: Final = ("number", "choice", "boolean", "date", "math", "text")
"""What `canonical` can bring into one form."""
KILLED: Final = "killed"
"""The rule of an answer whose comparison used up its time or memory."""


class Outcome(StrEnum):
    """What became of one answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TRUNCATED = "truncated"


class Grade(NamedTuple):
    """Outcome, the canonical answer that was read (or None) and the rule that found it; an unparsed one's rule is None or `KILLED`."""

    outcome: Outcome
    answer: str | None
    rule: str | None


def conclusion(answer: str) -> str:
    """The sentence that ends every rationale, byte for byte."""
    return f"The answer is \\boxed{{{answer}}}."


def canonical(text: str, answer_type: str, choices: Sequence[str] = ()) -> str | None:
    """The one form of a whole answer, in which equal answers are equal strings; `None` where `text` is not of that type.

    Numbers become reduced fractions or integers: "1,000" -> "1000", "75%" -> "3/4", "$12.50" -> "25/2"; dates ISO 8601. Expressions
    (`math`) that are equal may have different forms.

    Raises:
        ValueError: there is no such type.
    """
    kind = kind_of(answer_type, choices)
    readings = kind.whole(kind.plain(text))
    return readings[0] if readings else None


def read_answer(text: str, answer_type: str, choices: Sequence[str] = ()) -> tuple[str | None, str | None]:
    """(canonical answer, rule), or (None, None) where none of the rules finds an answer of the right type."""
    found = read(text, answer_type, choices)
    return (found.readings[0], found.rule) if found else (None, None)


def _same(answer: str, gold: str, answer_type: str) -> bool | None:
    """Whether canonical forms are the same answer; `None` where that could not be found out."""
    match answer_type:
        case "number":
            return equal_up_to_rounding(answer, gold)
        case "math":
            return expressions.same(answer, gold)
        case "text":
            return free_text.same(answer, gold)
    return answer == gold


def grade(text: str, finished: bool, gold: str, answer_type: str, choices: Sequence[str] = ()) -> Grade:
    """Grade one completion. `finished` is False where generation stopped at the token limit.

    Raises:
        GradingError: math-verify is needed and cannot be started.
    """
    found = read(text, answer_type, choices)
    if not finished and (found is None or found.rule != "boxed"):
        return Grade(Outcome.TRUNCATED, None, None)
    if found is None:
        return Grade(Outcome.UNPARSED, None, None)
    expected = canonical(gold, answer_type, choices)
    for answer in found.readings:
        same = expected is not None and _same(answer, expected, answer_type)
        if same is None:
            return Grade(Outcome.UNPARSED, None, KILLED)
        if same:
            return Grade(Outcome.CORRECT, answer, found.rule)
    return Grade(Outcome.WRONG, found.readings[0], found.rule)
