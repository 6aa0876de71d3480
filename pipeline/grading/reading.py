r"""Extracts the answer from a text with three rules; the first rule that matches decides.

`boxed`: the last complete, non-empty `\boxed{...}`; its content decides, readable or not. `stated`: the last readable and not negated "the
answer is ...", "Answer: ...", "#### ..." or similar. `last`: the last number, letter, verdict, date or expression of the text; free text
has no such rule. Text before the last `</think>` is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from pipeline.grading import booleans, dates, expressions, free_text, numbers
from pipeline.grading import choices as letters
from pipeline.grading.lookalikes import normalise_characters, strip_emphasis

Readings = tuple[str, ...]

_THOUGHT_ENDS: Final = "</think>"
_BOX: Final = re.compile(r"\\(?:boxed|fbox)(?:\s*(\{)|\s+(?=[^\s{])|(?=\d))")
_BARE: Final = re.compile(r"[^\s$\\,;]+")
_ALL_BRACES: Final = re.compile(r"[{}]")
_BRACES: Final = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN: Final = re.compile(
    r"[\s$]*(?:\\[)\],; ])?[\s$]*(?:,|;|&|,?\s*(?:\\text\{\s*)?\b(?:and|or)\b(?:\s*\})?)[\s$]*(?:\\[(\[,; ])?[\s$]*(?:[a-zA-Z]\s*=\s*)?"
)
_CONCLUSION: Final = re.compile(r"\\boxed\{([^.\n]*)\}\.\s*$")
"""The final answer sentence of a rationale. The answer text may contain unbalanced braces, so everything inside this box counts."""
_KEYS: Final = ("nswer", "NSWER", "inal result", "inal Result", "ption", "hoice", "####")
_STATED: Final = re.compile(
    r"(?:(?<!each )(?<!every )\banswers?|\bfinal result|(?:(?<=correct )|(?<=right )|(?<=best )|(?<=final ))(?:option|choice))\b[\"'*_)\]]*"
    r"(?:\s*(?:=|→|->)|(?:\s*\([^()\n]{0,40}\)|\s+(?:to|for|of|in|here|choice|option)\b[^.:=\n]{0,80}?)?"
    r"\s*(?:\b(?:is|are|would be|must be|should be|will be|equals?)\b|[:：]|(?=(?:cannot|can't|can not|isn't)\b)))"
    r"[\"'*_\s]*:?\s*(?:(?:`{3}\w*|\$\$|\\\[)\s*\n\s*)?"
    r"|(?<=<)answer>\s*|(?<![^\n])#{4}\s*",
    re.IGNORECASE,
)
_HEADING: Final = re.compile(r"\W*(?:final\s+)?answer\W*\n\s*", re.IGNORECASE)
_DENIED: Final = re.compile(r"\W*(?:\w+ly\s+)?(?:not|never|neither|cannot|can't|can not|isn't)\b", re.IGNORECASE)
_CORRECTED: Final = re.compile(r"^.*\b(?:but|it is|it's|rather|instead)\b[:,]?\s*", re.IGNORECASE)
_OVER: Final = re.compile(r"</answer>|<\|")


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


def _either(whole: Callable[[str], Readings], phrase: Callable[[str], Readings | None], text: str) -> Readings:
    return whole(text) or phrase(text) or ()


_KINDS: Final = {
    "number": AnswerKind(numbers.whole, numbers.boxed, numbers.phrase, numbers.last),
    "boolean": AnswerKind(booleans.whole, partial(_either, booleans.whole, booleans.phrase), booleans.phrase, booleans.last),
    "date": AnswerKind(dates.whole, partial(_either, dates.whole, dates.phrase), dates.phrase, dates.last),
    "math": AnswerKind(expressions.whole, expressions.whole, expressions.phrase, expressions.last),
    "text": AnswerKind(free_text.whole, free_text.whole, free_text.phrase, last=lambda text: (), plain=str),
}


def kind_of(answer_type: str, choices: Sequence[str] = ()) -> AnswerKind:
    """The readers of an answer type.

    Raises:
        ValueError: unknown answer type.
    """
    if answer_type == "choice":
        whole, phrase = partial(letters.whole, choices=choices), partial(letters.phrase, choices=choices)
        return AnswerKind(whole, partial(_either, whole, phrase), phrase, partial(letters.last, choices=choices))
    if answer_type not in _KINDS:
        raise ValueError(f"unknown answer type {answer_type!r}")
    return _KINDS[answer_type]


def _closings(text: str, start: int) -> dict[int, int]:
    """Positions of the closing brace for each brace opened from `start` on; matches unescaped braces, otherwise all braces."""
    closings = {}
    for braces in (_ALL_BRACES, _BRACES):
        opened: list[int] = []
        for brace in braces.finditer(text, start):
            if brace[0] == "{":
                opened.append(brace.start())
            elif brace[0] == "}" and opened:
                closings[opened.pop()] = brace.start()
    return closings


class Box(NamedTuple):
    """A complete box: start, end and content."""

    start: int
    end: int
    content: str


def last_boxes(text: str) -> list[Box]:
    """The last complete box, preceded by the boxes that a comma, "and" or "or" joins to it."""
    found = list(_BOX.finditer(text)) if "box" in text else []
    closings = _closings(text, found[0].start()) if found else {}
    complete = []
    for box in found:
        if box[1] is None:
            bare = _BARE.match(text, box.end())
            content, end = (bare[0].rstrip(".:"), bare.end()) if bare else ("", box.end())
        else:
            end = closings.get(box.start(1), 0)
            content = text[box.end() : end]
        if content.strip():
            complete.append(Box(box.start(), end + 1 if box[1] else end, content))
    run = complete[-1:]
    for before in reversed(complete[:-1]):
        if not _BETWEEN.fullmatch(text, before.end, run[0].start):
            break
        run.insert(0, before)
    return run


def announced(text: str) -> Iterator[tuple[int, int]]:
    """Spans of "the answer is" and similar phrases. Searches for keywords first, since most of a text contains none."""
    for key in _KEYS:
        place = text.find(key)
        while place >= 0:
            line = text.rfind("\n", 0, place) + 1
            if match := _STATED.match(text, max(0, place - (key[0] != "#"))) or _HEADING.match(text, line):
                yield match.span()
            place = text.find(key, place + 1)


def _statements(text: str, answer_type: str) -> list[tuple[int, int, str]]:
    """Start, end and wording of every statement of the answer, last first. A wording ends where the next statement begins."""
    found, following = [], len(text)
    for start, begin in sorted(set(announced(text)), reverse=True):
        line = text.find("\n", begin, following)
        end = max(begin, line if line >= 0 else following)
        found.append((start, end, strip_emphasis(_OVER.split(text[begin:end])[0]).strip()))
        following = start
    if answer_type == "choice":
        found += [(start, start, letter) for start, letter in letters.verdicts(text)]
    if answer_type == "boolean":
        found += [(start, start, word) for start, word in booleans.conclusions(text)]
    return sorted(found, reverse=True)


def read(text: str, answer_type: str, choices: Sequence[str] = ()) -> Reading | None:
    """The answer of a text; `None` if no rule finds an answer of the given type.

    Raises:
        ValueError: unknown answer type.
    """
    kind = kind_of(answer_type, choices)
    text = text.rpartition(_THOUGHT_ENDS)[2]
    conclusion = _CONCLUSION.match(text, max(0, text.rfind("\\boxed{"))) if answer_type == "text" else None
    boxes = [conclusion[1]] if conclusion else [box.content for box in last_boxes(text)]
    if boxes:
        together = [", ".join(dict.fromkeys(boxes))] if answer_type == "math" else []
        readings = sum((_read_box(kind.plain(box), kind) for box in [*together, boxes[-1]]), ())
        return Reading(tuple(dict.fromkeys(readings)), "boxed") if readings else None
    text = kind.plain(text)
    for start, end, wording in _statements(text, answer_type):
        correction = _CORRECTED.match(wording)
        if _DENIED.match(wording) and (correction or not kind.whole(wording)):  # "not guilty" can be an answer
            text = text[:start] + text[end:]
            wording = wording[correction.end() :] if correction else ""
        stated = kind.phrase(wording) if wording else None
        if stated is not None:
            return Reading(stated, "stated") if stated else None
    readings = kind.last(text)
    return Reading(readings, "last") if readings else None


def _read_box(box: str, kind: AnswerKind) -> Readings:
    stated = [end for _, end in announced(box)]
    return (stated and kind.phrase(box[max(stated) :])) or kind.boxed(box)
