"""Reads numbers that are written in words: twelve, one hundred and five, two thirds, three and a half, minus four, two point five.

The grammar: a number is a sign, a cardinal, and perhaps decimals or a fraction; a cardinal is a sum of products of units with hundreds and
scales. A word that continues the number in another way ("one of", "two or three", "a dozen") makes it none.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_TO_NINETEEN: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_UNITS: Final = {word: value for value, word in enumerate(_TO_NINETEEN)} | {word: 10 * ten for ten, word in enumerate(_TENS, 2)}
SCALES: Final = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PARTS: Final = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
    "twelfth": 12, "sixteenth": 16, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_PARTS_OF: Final = _PARTS | {f"{word}s": value for word, value in _PARTS.items()} | {"halves": 2}
_WORD: Final = re.compile(r"[\s-]*([a-z]+)", re.IGNORECASE)
_WORDS: Final = "|".join([*_UNITS, *SCALES])
_CONTINUES: Final = re.compile(
    rf"\s*(?:,\s*)?(?:or|to|point|dozen|times|plus|minus|out of|by|over|squared|cubed|{_WORDS})\b|\s*[-–/*+^=]\s*\w"
    rf"|\s*(?:,|and|&|in|in every|for every)\s*(?:{_WORDS})\b",
    re.IGNORECASE,
)
"""What behind a number says that it is only a part of one, or that there are several."""
_OF: Final = re.compile(r"\s+of\b")


class _Words:
    """The words of a text with the position behind the last one that was taken."""

    def __init__(self, text: str) -> None:
        self.text, self.end = text, 0

    def next(self, skip: int = 0) -> str:
        """The word after `skip` further words, in lower case; empty at the end of the words."""
        match, end = None, self.end
        for _ in range(skip + 1):
            match = _WORD.match(self.text, end)
            if match is None:
                return ""
            end = match.end()
        return match[1].casefold() if match else ""

    def take(self) -> str:
        match = _WORD.match(self.text, self.end)
        assert match is not None
        self.end = match.end()
        return match[1].casefold()


def _cardinal(words: _Words) -> int | None:
    total, part, last = 0, None, 10**30
    while word := words.next():
        if word in _UNITS and (part is None or last > 10**2 - 1 >= _UNITS[word] or (last >= 20 and 0 < _UNITS[word] < 10)):
            value = _UNITS[word]
            part, last = (part or 0) + value, value
        elif word in ("a", "an") and part is None and words.next(1) in SCALES:
            part, last = 1, 1
        elif word == "hundred" and part is not None and last < 100:
            part, last = 100 * part, 100
        elif word in SCALES and word != "hundred" and part is not None:
            total, part, last = total + part * 10 ** SCALES[word], 0, 1000
        elif word == "and" and last >= 100 and part is not None and words.next(1) in _UNITS:
            pass
        else:
            break
        words.take()
    return None if part is None else total + part


def _fraction(words: _Words) -> Fraction | None:
    """A part of one: two thirds, a half, one quarter."""
    start = words.end
    if words.next() in ("a", "an"):
        words.take()
        top: int | None = 1
    else:
        top = 1 if words.next() == "half" else _cardinal(words)
    if top is not None and (below := _PARTS_OF.get(words.next())) and not (top == 1 and words.next().endswith("s")):
        words.take()
        return Fraction(top, below)
    words.end = start
    return None


def leading_number(text: str) -> Fraction | None:
    """The number in words at the start of a text; `None` if there is none, or if a word behind it says that it is only a part."""
    words = _Words(text)
    sign = 1
    if words.next() in ("negative", "minus"):
        words.take()
        sign = -1
    value = _fraction(words)
    is_part = value is not None
    if value is None:
        whole = _cardinal(words)
        if whole is None:
            return None
        value = Fraction(whole)
        if words.next() == "point" and words.next(1) in _UNITS:
            words.take()
            digits = ""
            while (word := words.next()) in _TO_NINETEEN[:10]:
                digits += str(_UNITS[word])
                words.take()
            value += Fraction(int(digits or "0"), 10 ** len(digits))
        elif words.next() == "and":
            behind = words.end
            words.take()
            more = _fraction(words)
            if more is None:
                words.end = behind
            else:
                value += more
                is_part = True
    rest = text[words.end :]
    if rest[:1].isalnum() or _CONTINUES.match(rest) or any(map(str.isdigit, rest)):
        return None
    return None if not is_part and _OF.match(rest) else sign * value
