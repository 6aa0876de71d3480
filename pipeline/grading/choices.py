"""Reads multiple-choice answers: by letter (B, (b), B) blue, option B), by choice text, or by the number that equals a choice.

Only letters of existing choices count. A bare "A" before a word is an article unless the next word starts a reason, so "the answer is a
bank" is matched against the choice texts. Several letters or several choice texts give no answer.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.grading import numbers
from pipeline.grading.wording.latex import strip_latex
from pipeline.grading.wording.lookalikes import strip_emphasis
from pipeline.grading.wording.statements import Statement

LETTERS: Final = string.ascii_uppercase

_NAME: Final = r"(?i:option|choice|answer|letter)\s+"
_LETTERED: Final = re.compile(
    rf"(?:{_NAME})?[(\[]?([A-Za-z])[)\]]?+(?:[.:].*|(?<=[)\]])(?!\s*(?:or\b|and\b|[&/,])).*|\s+[–—-]\s.*)?", re.DOTALL
)
_REASON: Final = r"(?:because|since|as|due|for|which|and|not|is|in|from|with|if|while|according|based)\b"
_LEADING: Final = re.compile(
    rf"\W*?(?:{_NAME})?\W*?(?:[(\[]([A-Za-z])[)\]]|([B-Z])(?![\w'])|(A)(?![\w'])(?!\s+(?!{_REASON})[a-z]))"
)
_MENTION: Final = re.compile(rf"[(\[]([A-Z])[)\]]|{_NAME}([A-Z])\b|\b([A-Z])\b(?=[.)]|$)")
_JOINT: Final = re.compile(rf"[\s*]*(?:,|/|&|,?\s*\b(?:or|and)\b)[\s*]*(?:{_NAME})?")
_SUBJECT: Final = r"(?:[(\[]([A-Z])[)\]]|\b([A-Z])\b)(?:[):.]?\s[^\n.]{0,60}?)?\s*\b"
_VERDICT: Final = re.compile(
    _SUBJECT + r"(?:is|must be|would be|seems(?: to be)?)\s+(?:the\s+)?(?:most\s+|only\s+)?(?:correct|right|best|answer)\b"
)
_RULED_OUT: Final = re.compile(_SUBJECT + r"(?:is|are|can|must)(?:\s*not\b|n't\b|\s+(?:incorrect|wrong|false|out|ruled out)\b)")
_INSTEAD: Final = re.compile(r",?\s+(?:(?:and|but) )?(?:not|rather than|instead of|as opposed to|unlike)\b", re.IGNORECASE)
_NEGATIVE: Final = re.compile(r"\b(?:not|no|never|neither|nor|except|cannot)\b|n't\b", re.IGNORECASE)
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|\n+")


def _folded(text: str) -> str:
    """A choice text normalised for comparison: no case, LaTeX, quotes, leading article or final full stop."""
    plain = " ".join(strip_latex(text).casefold().split()).strip(" .\"'`*$")
    return re.sub(r"^(?:an?|the) (?=\S)", "", plain)


def _letter(found: str | None, choices: Sequence[str]) -> str | None:
    known = min(len(choices), len(LETTERS)) or len(LETTERS)
    return found.upper() if found and LETTERS.index(found.upper()) < known else None


def whole(text: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The letter of a text that consists of one choice only."""
    plain = strip_latex(text).strip().strip("*\"'`").rstrip(".")
    match = _LETTERED.fullmatch(plain)
    if match and (letter := _letter(match[1], choices)):
        return (letter,)
    lettered = list(zip(LETTERS, choices, strict=False))
    same = [letter for letter, choice in lettered if choice.strip().casefold() == text.strip().casefold()]
    same = same or [letter for letter, choice in lettered if _folded(choice) == _folded(text)]
    if same:
        return (same[0],)
    value = numbers.boxed(plain)[:1]
    equal = [letter for letter, choice in lettered if value and numbers.boxed(choice)[:1] == value]
    return (equal[0],) if len(equal) == 1 else ()


def _named(text: str, choices: Sequence[str]) -> set[str]:
    """Letters of the choices whose text occurs in `text` as whole words; a match inside a longer matched choice is ignored."""
    within, found = _folded(text), set()
    texts = [(_folded(choice), letter) for letter, choice in zip(LETTERS, choices, strict=False)]
    for words, letter in sorted(texts, key=lambda item: -len(item[0])):
        rest = re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", "|", within) if words else within
        if rest != within:
            within = rest
            found.add(letter)
    return found


def _mentions(text: str, choices: Sequence[str]) -> Iterator[tuple[re.Match[str], str]]:
    for match in _MENTION.finditer(text):
        if letter := _letter(match[1] or match[2] or match[3], choices):
            yield match, letter


def phrase(text: str, choices: Sequence[str]) -> tuple[str, ...] | None:
    """The letter that follows "the answer is"; empty if it names several choices, `None` if it names none."""
    if found := whole(text, choices):
        return found
    text = strip_latex(text)
    first = _LEADING.match(text)
    if first and (letter := _letter(first[1] or first[2] or first[3], choices)):
        joint = _JOINT.match(text, first.end())
        other = joint and _LEADING.match(text, joint.end())
        return () if other and _letter(other[1] or other[2] or other[3], choices) else (letter,)
    sentence = _INSTEAD.split(_SENTENCE.split(text)[0])[0]
    found_here = _named(sentence, choices) or {letter for _, letter in _mentions(sentence, choices)}
    return None if not found_here else (found_here.pop(),) if len(found_here) == 1 else ()


def verdicts(text: str) -> Iterator[Statement]:
    """Positions and letters of statements such as "(B) is the correct answer"."""
    for match in _VERDICT.finditer(text):
        yield Statement(match.start(), match.start(), match[1] or match[2])


def last(text: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The last standalone letter that is not ruled out; otherwise the only choice that the last sentence names without negation."""
    letters = list(_mentions(_RULED_OUT.sub("", strip_latex(strip_emphasis(text))), choices))
    if len(letters) > 1 and letters[-1][1] != letters[-2][1]:
        between = letters[-1][0].string[letters[-2][0].end() : letters[-1][0].start()]
        if _JOINT.fullmatch(between):
            return ()
    if letters:
        return (letters[-1][1],)
    sentence = _SENTENCE.split(text.strip())[-1]
    named = _named(sentence, choices)
    return tuple(named) if len(named) == 1 and not _NEGATIVE.search(sentence) else ()
