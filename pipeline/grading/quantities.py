r"""Reads and compares answers of numbers with units and of words: 5 cm, 12 h 45, 5 ft 3 in, 3:30 p.m., 2 red, 3 blue, even, BCA.

Such an answer is a sequence of numbers, units and words; two are equal if every part is. Where each has one number, one may lack its unit.
math-verify never sees them: it reads letters as factors without order, and drops what it cannot read.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, NamedTuple

from pipeline.grading.wording.latex import unwrapped
from pipeline.grading.wording.number_words import leading_number

_PART: Final = re.compile(
    r"(?P<time>\d{1,2}:\d{2}(?::\d{2})?)|(?P<number>-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?)|(?P<degrees>\^\{?\\circ\}?)|(?P<percent>\\?%)"
    r"|(?P<word>[A-Za-z](?:\.[A-Za-z])+\.?(?![A-Za-z])|[A-Za-z][A-Za-z'-]*(?:\^\{?-?\d\}?)?)|(?P<per>/)|(?P<between>[\s,.$~]+|\\[,;: $])"
)
_FILLERS: Final = {"and", "about", "approximately", "exactly", "the", "a", "an", "of", "is", "are", "it", "in", "only"}
_POWERS: Final = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
_UNITS: Final = {
    unit: group.split()[0]
    for group in (
        "hour h hr", "minute min mins", "second s sec secs", "day d", "week wk", "year yr", "meter metre m", "centimeter centimetre cm",
        "millimeter millimetre mm", "kilometer kilometre km", "inch in inches",
        "foot ft feet", "yard yd", "mile mi", "gram g", "kilogram kg",
        "milligram mg", "pound lb", "ounce oz", "liter litre l", "milliliter millilitre ml", "dollar usd", "cent c", "degree deg degrees",
        "percent %", "unit", "am", "pm", "mph", "person people", "child children",
    )
    for unit in group.split()
}  # fmt: skip
_FUNCTIONS: Final = (
    r"(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|sqrt|pi|max|min|gcd|lcm|mod|det|lim|infty|frac|cdot|times)"
)
_SEVERAL_LETTERS: Final = re.compile(rf"(?<![\\A-Za-z])(?!{_FUNCTIONS}(?![a-z]))[A-Za-z]{{2,}}")
_OF_A_NUMBER: Final = re.compile(r"\b(?:percent|per cent|hundred|thousand|million|billion|trillion)\b", re.IGNORECASE)
_OPERATOR: Final = re.compile(r"[=+*^_<>|()\[\]{}\\]")
_LETTER_BETWEEN: Final = re.compile(r"\d ?[A-Za-z]\.? ?\d|\b[A-Za-z]\.[A-Za-z]\b")
_UNIT_BEHIND: Final = re.compile(
    r"(?P<maths>.*[\d})\]a-z])\s*\\text\{(?P<unit>[^{}]*[A-Za-z][^{}]*)\}(?P<power>(?:\^\{?\d\}?)?)"
)


class Parts(NamedTuple):
    """The numbers of an answer and everything it consists of, in order."""

    numbers: tuple[str, ...]
    all: tuple[str, ...]


def is_worded(form: str) -> bool:
    """Whether a normal form consists of numbers, units and words and not of algebra."""
    if r"\text" in form:
        return True
    plain = form.replace(r"^\circ", "").replace(r"\%", "%")
    if _OPERATOR.search(re.sub(r"(?<=[A-Za-z])\^\{?-?\d\}?", "", plain)):
        return False
    return bool(_SEVERAL_LETTERS.search(plain) or _LETTER_BETWEEN.search(plain))


def has_unit(form: str) -> bool:
    """Whether a normal form has words other than those that belong to a number (percent, million)."""
    if "\\text" not in form and not _SEVERAL_LETTERS.search(form):
        return False
    bare = _OF_A_NUMBER.sub(" ", form)
    return bool(_SEVERAL_LETTERS.search(unwrapped(bare)) or re.search(r"\\text\{[^{}]*[A-Za-z]", bare))


def _unit(word: str) -> str:
    """One spelling of a unit or word."""
    base, _, power = word.partition("^")
    known = base if base in _UNITS else base.casefold()
    singular = known.rstrip(".") if known in _UNITS else known.replace(".", "")
    for candidate in (known, singular, singular.removesuffix("s"), singular.removesuffix("es")):
        if candidate in _UNITS:
            singular = _UNITS[candidate]
            break
    else:
        singular = singular.removesuffix("s") if len(singular) > 3 and base.islower() else base.casefold()
    return f"{singular}^{power.strip('{}')}" if power else singular


def parts(form: str) -> Parts | None:
    """The parts of a worded answer; `None` if it contains anything else."""
    text, end = unwrapped(form), 0
    numbers: list[str] = []
    found: list[str] = []
    power = ""
    while end < len(text):
        part = _PART.match(text, end)
        if part is None:
            return None
        end = part.end()
        if part["number"]:
            top, _, below = part["number"].replace(",", "").partition("/")
            if below and not int(below):
                return None
            numbers.append(str(Fraction(top) / Fraction(below or 1)))
            found.append(numbers[-1])
        elif part["time"]:
            numbers.append(part["time"])
            found.append(part["time"])
        elif part["degrees"] or part["percent"]:
            found.append("degree" if part["degrees"] else "percent")
        elif part["per"]:
            found.append("per")
        elif part["word"]:
            word = part["word"]
            if word.casefold() in _POWERS:
                power = _POWERS[word.casefold()]
            elif word.casefold() not in _FILLERS or (numbers and word == "in" and found[-1:] == numbers[-1:]):
                value = leading_number(word) if word.casefold() not in _UNITS else None
                if value is not None:
                    numbers.append(str(value))
                found.append(str(value) if value is not None else _unit(word + power))
                power = ""
    return Parts(tuple(numbers), tuple(found))


def units(text: str) -> tuple[str, ...]:
    """The units and words of a text beside its numbers."""
    found = parts(text.strip().rstrip("."))
    return () if found is None else tuple(part for part in found.all if part not in found.numbers)


def same(one: str, other: str) -> bool | None:
    """Whether two answers with words are equal; `None` if what is left of them without equal units must be compared as mathematics."""
    mine, theirs = parts(one), parts(other)
    if mine is None or theirs is None:
        return None
    if mine.all == theirs.all:
        return True
    bare = len(mine.all) == 1 or len(theirs.all) == 1
    return len(mine.numbers) == len(theirs.numbers) == 1 and mine.numbers == theirs.numbers and bare


def without_unit(form: str) -> tuple[str, str]:
    r"""Mathematics and the spelling of the unit behind it: `5\sqrt{2}\text{ cm}` is (5\sqrt{2}, centimeter)."""
    match = _UNIT_BEHIND.fullmatch(form)
    if match is None or "\\text" in match["maths"]:
        return form, ""
    found = parts(match["unit"].strip() + match["power"])
    return match["maths"].strip(), " ".join(found.all) if found and not found.numbers else "?"
