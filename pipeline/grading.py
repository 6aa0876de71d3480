"""Reading a model's answer and deciding: correct, wrong, unparsed or truncated. Never merged, never guessed.

The answer is looked for in this order, and the rule that found it is recorded:
`boxed` the last complete `\\boxed{...}`; `stated` the last "answer is ..."; `last` the last number, letter or yes/no of the
text (not for free text). A text cut off at the token limit counts as truncated unless a boxed answer is complete.
Comparison is exact on canonical forms: numbers as decimals, choices as letters (their text is accepted), booleans as
yes/no, text case-folded with white space collapsed (our choice).
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fractions import Fraction
from typing import Final, NamedTuple

LETTERS: Final = string.ascii_uppercase

_STATED: Final = re.compile(r"answer\s*(?:is|:|=)\s*:?\s*([^\n]+)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?%?")
_WORDS: Final = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}


class Outcome(StrEnum):
    """What became of one answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TRUNCATED = "truncated"


class Grade(NamedTuple):
    """Outcome, the canonical answer that was read (or None) and the rule that found it."""

    outcome: Outcome
    answer: str | None
    rule: str | None


def conclusion(answer: str) -> str:
    """The sentence that ends every rationale, byte for byte."""
    return f"The answer is \\boxed{{{answer}}}."


def _canonical_number(text: str) -> str | None:
    cleaned = text.strip().strip("$").replace(",", "").replace("$", "").replace("\\", "").rstrip(".").strip()
    percent = cleaned.endswith("%")
    cleaned = cleaned.rstrip("%").strip()
    try:
        if "/" in cleaned:
            fraction = Fraction(cleaned.replace(" ", ""))
            if percent:
                fraction /= 100
            return str(fraction) if fraction.denominator > 1 else str(fraction.numerator)
        value = Decimal(cleaned)
    except (InvalidOperation, ValueError, ZeroDivisionError):
        return None
    if not value.is_finite() or abs(value.adjusted()) > 60:
        return None
    fraction = Fraction(value) / (100 if percent else 1)
    return str(fraction) if fraction.denominator > 1 else str(fraction.numerator)


def _canonical_choice(text: str, choices: Sequence[str]) -> str | None:
    cleaned = text.strip().rstrip(".").strip()
    letter = re.fullmatch(r"\(?([A-Za-z])\)?(?:[).:].*)?", cleaned, re.DOTALL)
    if letter and LETTERS.index(letter[1].upper()) < (len(choices) or len(LETTERS)):
        return letter[1].upper()
    folded = [choice.casefold().strip() for choice in choices]
    return LETTERS[folded.index(cleaned.casefold())] if cleaned.casefold() in folded else None


def canonical(text: str, answer_type: str, choices: Sequence[str] = ()) -> str | None:
    """The one form in which equal answers are equal strings; `None` where `text` is not of that type.

    Numbers become reduced fractions or integers: "1,000" -> "1000", "75%" -> "3/4", "$12.50" -> "25/2".
    """
    match answer_type:
        case "number":
            return _canonical_number(text)
        case "choice":
            return _canonical_choice(text, choices)
        case "boolean":
            return _WORDS.get(text.strip().rstrip(".").casefold())
        case "text":
            return " ".join(text.split()).casefold() or None
    raise ValueError(f"unknown answer type {answer_type!r}")


def _last_boxed(text: str) -> str | None:
    """Content of the last complete `\\boxed{...}`, braces balanced."""
    for match in reversed(list(re.finditer(r"\\boxed\s*\{", text))):
        depth = 1
        for position in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[match.end() : position]
    return None


def _last_mention(text: str, answer_type: str) -> str | None:
    match answer_type:
        case "number":
            found = _NUMBER.findall(text)
        case "boolean":
            found = re.findall(r"\b(?:yes|no|true|false)\b", text, re.IGNORECASE)
        case "choice":
            found = re.findall(r"\(([A-Z])\)|\b([A-Z])\b(?=[.)]|$)", text)
            found = [first or second for first, second in found]
        case _:
            return None
    return found[-1] if found else None


def read_answer(text: str, answer_type: str, choices: Sequence[str] = ()) -> tuple[str | None, str | None]:
    """(canonical answer, rule), or (None, None) where none of the rules finds an answer of the right type."""
    boxed = _last_boxed(text)
    if boxed is not None:
        answer = canonical(boxed, answer_type, choices)
        return (answer, "boxed") if answer is not None else (None, None)
    stated = _STATED.findall(text)
    if stated:
        candidate = stated[-1].strip()
        answer = canonical(candidate, answer_type, choices)
        if answer is None and answer_type != "text":
            mention = _last_mention(candidate, answer_type)
            answer = canonical(mention, answer_type, choices) if mention is not None else None
        if answer is not None:
            return answer, "stated"
    mention = _last_mention(text, answer_type)
    if mention is not None:
        answer = canonical(mention, answer_type, choices)
        if answer is not None:
            return answer, "last"
    return None, None


def grade(text: str, finished: bool, gold: str, answer_type: str, choices: Sequence[str] = ()) -> Grade:
    """Grade one completion. `finished` is False where generation stopped at the token limit."""
    answer, rule = read_answer(text, answer_type, choices)
    if not finished and rule != "boxed":
        return Grade(Outcome.TRUNCATED, None, None)
    if answer is None:
        return Grade(Outcome.UNPARSED, None, None)
    right = answer == canonical(gold, answer_type, choices)
    return Grade(Outcome.CORRECT if right else Outcome.WRONG, answer, rule)
