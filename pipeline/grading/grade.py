"""Grades one completion: correct, wrong, unparsed or truncated. The four outcomes are never merged.

`reading.py` finds the answer in the text and records the rule that found it. One file per answer type decides whether two answers are
equal: exact comparison of canonical forms, with the exceptions that `docs/grading.md` lists (our choice). A text that was cut off at the
token limit is truncated unless it has a complete boxed answer.
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
"""Answer types."""
KILLED: Final = "killed"
"""Recorded as the rule if the comparison exceeded its time or memory limit."""


class Outcome(StrEnum):
    """Outcome of one completion."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TRUNCATED = "truncated"


class Grade(NamedTuple):
    """Outcome, the canonical answer (None if none was read), and the rule that found it (None or `KILLED` if unparsed)."""

    outcome: Outcome
    answer: str | None
    rule: str | None


def conclusion(answer: str) -> str:
    """The answer sentence, which ends every rationale byte for byte."""
    return f"The answer is \\boxed{{{answer}}}."


def canonical(text: str, answer_type: str, choices: Sequence[str] = ()) -> str | None:
    """The canonical form of an answer, so that equal answers are equal strings; None if `text` is not of that type.

    Numbers become integers or reduced fractions: "1,000" -> "1000", "75%" -> "3/4", "$12.50" -> "25/2"; dates become ISO 8601. Equal
    `math` expressions may have different forms.

    Raises:
        ValueError: unknown answer type.
    """
    kind = kind_of(answer_type, choices)
    readings = kind.whole(kind.plain(text))
    return readings[0] if readings else None


def read_answer(text: str, answer_type: str, choices: Sequence[str] = ()) -> tuple[str | None, str | None]:
    """(canonical answer, rule), or (None, None) if no rule finds an answer of that type."""
    found = read(text, answer_type, choices)
    return (found.readings[0], found.rule) if found else (None, None)


def _same(answer: str, gold: str, answer_type: str) -> bool | None:
    """Whether two canonical forms are the same answer; None if the comparison was aborted."""
    match answer_type:
        case "number":
            return equal_up_to_rounding(answer, gold)
        case "math":
            return expressions.same(answer, gold)
        case "text":
            return free_text.same(answer, gold)
    return answer == gold


def grade(text: str, finished: bool, gold: str, answer_type: str, choices: Sequence[str] = ()) -> Grade:
    """Grade one completion. `finished` is False if generation stopped at the token limit.

    Raises:
        GradingError: math-verify is needed and does not start.
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
