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
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final, NamedTuple

LETTERS: Final = string.ascii_uppercase
ANSWER_TYPES: Final = ("number", "choice", "boolean", "text")
"""What `canonical` can bring into one form."""

_STATED: Final = re.compile(r"answer\s*(?:is|:|=)\s*:?\s*([^\n]+)", re.IGNORECASE)
_DIGITS: Final = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMERAL: Final = re.compile(rf"[-+]?\\?\$?[-+]?(?:{_DIGITS}\.?\d*|\.\d+)(?:[eE][-+]?\d{{1,3}})?")
_MENTION: Final = re.compile(rf"(?:(?<![\w)\]])[-+])?\$?{_DIGITS}(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?%?")
_CONCLUSION: Final = re.compile(r"\\boxed\{([^.\n]*)\}\.\s*$")
_WORDS: Final = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_MOST_DIGITS: Final = 60


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


def _fraction(text: str) -> Fraction | None:
    """One numeral, without sign of currency or thousands; None where it is not one or far too long to be meant."""
    if len(text) > 4 * _MOST_DIGITS or not _NUMERAL.fullmatch(text):
        return None
    return Fraction(Decimal(re.sub(r"[\\$,]", "", text)))


def _plain(text: str) -> str:
    """A number without its LaTeX: \\frac{a}{b} as a/b, \\text{...} and thin spaces left out."""
    text = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\\text\{[^{}]*\}|\\[,!; ]", "", text)
    return text.replace("{,}", ",").replace("\\%", "%").replace("−", "-")


def _canonical_number(text: str) -> str | None:
    cleaned = _plain(text).strip().rstrip(".")
    percent = cleaned.endswith("%")
    parts = [_fraction(part.strip().rstrip("$")) for part in cleaned.rstrip("%").split("/")]
    if len(parts) > 2 or parts[0] is None or parts[-1] is None or (len(parts) == 2 and not parts[1]):
        return None
    value = (parts[0] / parts[1] if len(parts) == 2 and parts[1] else parts[0]) / (100 if percent else 1)
    if max(abs(value.numerator), value.denominator) >= 10**_MOST_DIGITS:
        return None
    return str(value)


def _canonical_choice(text: str, choices: Sequence[str]) -> str | None:
    def folded(choice: str) -> str:
        return choice.strip().rstrip(".").strip().casefold()

    letter = re.fullmatch(r"\(?([A-Za-z])\)?(?:[).:].*)?", text.strip().rstrip("."), re.DOTALL)
    lettered = min(len(choices), len(LETTERS)) or len(LETTERS)
    if letter and LETTERS.index(letter[1].upper()) < lettered:
        return letter[1].upper()
    same = [number for number, choice in enumerate(choices[:lettered]) if folded(choice) == folded(text)]
    return LETTERS[same[0]] if same else None


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
    """Content of the last complete `\\boxed{...}`, braces balanced.

    Answers may themselves be unbalanced brackets: where the text ends in the answer sentence, everything inside its box counts.
    """
    end = _CONCLUSION.search(text)
    if end and "\\boxed" not in end[1]:
        return end[1]
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
            found = _MENTION.findall(text)
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
        if answer is None and answer_type == "number":
            mentions = _MENTION.findall(_plain(boxed))  # 18 dollars, x=5
            answer = canonical(mentions[0], answer_type) if len(mentions) == 1 else None
        return (answer, "boxed") if answer is not None else (None, None)
    stated = _STATED.findall(text)
    if stated:
        candidate = stated[-1].strip()
        answer = canonical(candidate.rstrip(".") if answer_type == "text" else candidate, answer_type, choices)
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
