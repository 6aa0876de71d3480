r"""Extracts the answer from a text with three rules; the first rule that matches decides.

`boxed`: the last complete, non-empty `\boxed{...}`; its content decides, readable or not. `stated`: the last readable and not negated "the
answer is ...", "Answer: ...", "#### ..." or similar. `last`: the last number, letter, verdict, date or expression of the text; free text
has no such rule. Text before the end of the last thought is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from pipeline.grading import booleans, dates, expressions, free_text, numbers
from pipeline.grading import choices as letters
from pipeline.grading.wording import numerals
from pipeline.grading.wording.hedges import HEDGE
from pipeline.grading.wording.lookalikes import normalise_characters
from pipeline.grading.wording.sentences import SENTENCE_END, without_options, without_talk_to_graders
from pipeline.grading.wording.statements import NO_ANSWER, Statement, announced, last_boxes, statements
from pipeline.grading.wording.thoughts import behind_thoughts
from pipeline.grading.wording.turns import one_turn

Readings = tuple[str, ...]

_CONCLUSION: Final = re.compile(r"\\boxed\{([^.\n]*)\}\.\s*$")
"""The final answer sentence of a rationale. The answer text may contain unbalanced braces, so everything inside this box counts."""
_DENIED: Final = re.compile(r"\W*(?:\w+ly\s+)?(?:not|never|neither|cannot|can't|can not|isn't)\b", re.IGNORECASE)
_CORRECTED: Final = re.compile(r"^.*\b(?:but|it is|it's|rather|instead)\b[:,]?\s*", re.IGNORECASE)
_TAKEN_BACK: Final = re.compile(
    r"\b(?:wait|actually|hmm+|oops|sorry|correction|scratch that|on second thought|no,|my mistake|i made a mistake|i was wrong"
    r"|let me (?:correct|fix|redo)|rather,)",
    re.IGNORECASE,
)


class Reading(NamedTuple):
    """The readings, the literal one first, and the rule that matched."""

    readings: Readings
    rule: str


class AnswerKind(NamedTuple):
    """Readers of one answer type: for a whole answer, a box, a statement and a text. `plain` normalises the text first."""

    whole: Callable[[str], Readings]
    boxed: Callable[[str], Readings]
    phrase: Callable[[str], Readings | None]
    last: Callable[[str], Readings]
    plain: Callable[[str], str] = normalise_characters


_KINDS: Final = {
    "number": AnswerKind(numerals.whole, numbers.boxed, numbers.phrase, numbers.last),
    "boolean": AnswerKind(booleans.whole, booleans.boxed, booleans.phrase, booleans.last),
    "date": AnswerKind(dates.whole, dates.boxed, dates.phrase, dates.last),
    "math": AnswerKind(expressions.whole, expressions.boxed, expressions.phrase, expressions.last),
    "text": AnswerKind(free_text.whole, free_text.whole, free_text.phrase, last=lambda text: (), plain=str),
}


def kind_of(answer_type: str, choices: Sequence[str] = ()) -> AnswerKind:
    """The readers of an answer type.

    Raises:
        ValueError: unknown answer type.
    """
    if answer_type == "choice":
        whole, phrase = partial(letters.whole, choices=choices), partial(letters.phrase, choices=choices)
        boxed, last = partial(letters.boxed, choices=choices), partial(letters.last, choices=choices)
        return AnswerKind(whole, boxed, phrase, last)
    if answer_type not in _KINDS:
        raise ValueError(f"unknown answer type {answer_type!r}")
    return _KINDS[answer_type]


def _said(text: str, answer_type: str, choices: Sequence[str]) -> list[Statement]:
    """The statements of a text, last first, with those that only choices or booleans have."""
    found = statements(text)
    if answer_type == "choice":
        found += letters.verdicts(text, choices)
    if answer_type == "boolean":
        found += booleans.conclusions(text)
    return sorted(found, reverse=True)


def _read_boxes(boxes: Sequence[str], answer_type: str, kind: AnswerKind) -> Readings:
    """Readings of boxes that are joined to each other: a list for `math`, otherwise one answer if they are the same."""
    readings = [_read_box(kind.plain(box), kind) for box in boxes]
    if answer_type != "math":
        return readings[-1] if all(set(found) & set(readings[-1]) for found in readings) else ()
    if readings[-1] and all(found and expressions.same(found[0], readings[-1][0]) for found in readings):
        return readings[-1]
    return _read_box(kind.plain(", ".join(boxes)), kind)


def _read_box(box: str, kind: AnswerKind) -> Readings:
    stated = [end for _, end in announced(box)]
    return (stated and kind.phrase(box[max(stated) :])) or kind.boxed(box)


def _taken_back(text: str, start: int, readings: Readings, kind: AnswerKind) -> bool:
    """Whether a sentence behind the statement at `start` replaces its answer or doubts it."""
    own = SENTENCE_END.search(text, start)
    if own is None:
        return False
    for sentence in SENTENCE_END.split(text[own.end() :]):
        if _TAKEN_BACK.search(sentence) or HEDGE.search(sentence):
            other = kind.last(HEDGE.sub("", sentence))
            if other and not set(other) & set(readings):
                return True
    return False


def read(text: str, answer_type: str, choices: Sequence[str] = ()) -> Reading | None:
    """The answer of a text; `None` if no rule finds an answer of the given type.

    Raises:
        ValueError: unknown answer type.
    """
    kind = kind_of(answer_type, choices)
    text = without_talk_to_graders(one_turn(behind_thoughts(text)))
    conclusion = _CONCLUSION.match(text, max(0, text.rfind("\\boxed{"))) if answer_type == "text" else None
    boxes = [conclusion[1]] if conclusion else list(dict.fromkeys(box.content for box in last_boxes(text)))
    if boxes:
        readings = _read_boxes(boxes, answer_type, kind)
        return Reading(readings, "boxed") if readings else None
    text = kind.plain(text)
    for start, end, wording, committed, doubted in _said(text, answer_type, choices):
        wording = wording if answer_type == "text" else wording.lstrip("\"'")
        correction = _CORRECTED.match(wording)
        # "not guilty" can be an answer, and "not true" is one
        if _DENIED.match(wording) and (
            correction or not (kind.whole(wording) or (answer_type == "boolean" and kind.phrase(wording)))
        ):
            text = text[:start] + text[end:]
            wording = wording[correction.end() :] if correction else ""
            if not wording:
                continue
        if not committed or (doubted and not (answer_type == "choice" and kind.whole(wording))):
            return None
        stated = kind.phrase(wording) if wording else None
        if stated is None and answer_type != "text" and NO_ANSWER.match(wording):
            return None
        if stated is not None:
            return Reading(stated, "stated") if stated and not _taken_back(text, start, stated, kind) else None
    readings = kind.last(without_options(text))
    return Reading(readings, "last") if readings else None
