r"""Reads and compares mathematical expressions: \frac{1}{2}, (3, \pi/2), x^2+1, intervals, sets, matrices, \text{even}.

Every answer has a cheap normal form of its text. Equal forms are equal answers; numbers, numerals with a base and words are compared here.
Only the remaining pairs go to math-verify, in a separate process (`symbolic.py`). Numbers must be exact or correct to six decimal places,
since an expression was asked for: 0.333 is not 1/3. A percent sign or a base may be missing on one side.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from pipeline.grading import numbers, symbolic
from pipeline.grading.wording.latex import balanced, normal
from pipeline.grading.rounding import equal_up_to_rounding

_LONGEST: Final = 1000
_FEWEST_PLACES: Final = 6
_TAIL: Final = 2000
_MATHS: Final = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_ASSIGNED: Final = re.compile(r"([a-zA-Z](?:\([a-z]\))?=)(.+)")
_NUMBER: Final = re.compile(r"([a-zA-Z](?:\([a-z]\))?=)?(-?\d+(?:/\d+)?)(%?)")
_NUMERAL: Final = re.compile(r"(-?\d[\dA-F]*)(?:_\{?(\d+)\}?)?")
_WORDS: Final = re.compile(r"[A-Za-z][A-Za-z' -]{3,}")
_LETTER: Final = re.compile(r"\(([A-Z])\)")
_REPEATING: Final = re.compile(r"(-?)(\d*)\.(\d*)\\overline\{(\d+)\}")
_SENTENCE: Final = re.compile(r"(?<=[\w)\]}$])[.?!](?:\s|$)")


def _repeating(form: str) -> str | None:
    r"""0.1\overline{6} as a fraction, because math-verify reads it as 0.1."""
    match = _REPEATING.fullmatch(form)
    if not match:
        return None
    sign, integer, start, period = match.groups()
    head = int(integer + start or "0")
    value = Fraction(int(f"{head}{period}") - head, (10 ** len(period) - 1) * 10 ** len(start))
    return str(-value if sign else value)


def _number(readings: tuple[str, ...], text: str) -> str:
    """The normal form of a number; a percentage keeps its sign, since the other side may lack it."""
    return f"{readings[-1]}%" if "%" in text or "percent" in text else readings[0]


def whole(text: str) -> tuple[str, ...]:
    """The normal form of one expression; empty if the text is empty, unbalanced or too long."""
    form = normal(text)
    if not form or len(form) > _LONGEST or not balanced(form) or form.endswith("\\"):
        return ()
    assigned = _ASSIGNED.fullmatch(form)
    if found := numbers.whole(assigned[2] if assigned else form):
        return ((assigned[1] if assigned else "") + _number(found, form),)
    if letter := _LETTER.fullmatch(form):
        return (letter[1],)
    return (_repeating(form) or (form.casefold() if _WORDS.fullmatch(form) else form),)


def phrase(text: str) -> tuple[str, ...] | None:
    """The expression that follows "the answer is": the first one between dollars, or a number with its unit, or the sentence."""
    if maths := _MATHS.search(text):
        return whole(next(filter(None, maths.groups()))) or None
    sentence = _SENTENCE.split(text, maxsplit=1)[0]
    found = numbers.boxed(sentence)
    return (_number(found, sentence),) if found else whole(sentence) or None


def last(text: str) -> tuple[str, ...]:
    """The last expression between dollars, otherwise the last number."""
    maths = _MATHS.findall(text[-_TAIL:])
    return whole(next(filter(None, maths[-1]))) if maths else numbers.last(text)[:1]


def _same_number(mine: re.Match[str], theirs: re.Match[str]) -> bool:
    """Whether two matches of `_NUMBER` are the same number; an assignment or percent sign may be missing on one side."""
    if mine[1] and theirs[1] and mine[1] != theirs[1]:
        return False
    value, other = mine[2], theirs[2]
    pairs = [(value, other)]
    if mine[3] != theirs[3]:
        pairs.append((str(Fraction(value) / 100), other) if mine[3] else (value, str(Fraction(other) / 100)))
    return any(equal_up_to_rounding(one, another, _FEWEST_PLACES) for one, another in pairs)


def same(answer: str, gold: str) -> bool | None:
    """Whether two normal forms are the same answer; `None` if math-verify exceeded its limits."""
    if answer == gold:
        return True
    mine, theirs = _NUMBER.fullmatch(answer), _NUMBER.fullmatch(gold)
    if mine and theirs:
        return _same_number(mine, theirs)
    numerals = _NUMERAL.fullmatch(answer), _NUMERAL.fullmatch(gold)
    if numerals[0] and numerals[1] and (numerals[0][2] or numerals[1][2]):
        return numerals[0][1] == numerals[1][1] and None in (numerals[0][2], numerals[1][2])
    if all(_NUMBER.fullmatch(form) or _WORDS.fullmatch(form) for form in (answer, gold)):
        return False
    return symbolic.equal(answer, gold)
