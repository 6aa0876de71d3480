r"""Reads one number: 1,000; 12'000; $12.50; 3/4; 1 1/2; 75%; 1.2e3; -(5); negative 8; 5 million; twelve; two thirds.

Values are exact fractions (`grading/rounding.py` decides which values a decimal may stand for). `75%` is read as 3/4 and also as 75, and
`5 million` also as 5, because questions that ask for a percentage or for millions have such gold answers (our choice).

Three layers: a numeral (`_NUMERAL`) has digits, groups, decimals and an exponent; a number (`_WHOLE`) is a numeral with its sign, currency,
denominator, scale and percent sign; a chunk (`CHUNK`) is whatever looks like a number in a text, ranges, times and dates included, and is
a number if it is one as a whole.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

from pipeline.grading.wording.latex import GROUPED_BY_COMMAS, strip_latex
from pipeline.grading.wording.number_words import SCALES, leading_number

MOST_DIGITS: Final = 60
"""A number with more is none: nothing writes it, and arithmetic with it takes long."""
_INTEGER: Final = re.compile(r"-?\d{1,18}")
CURRENCY: Final = "[$£€¥₹]"
_BY_SPACE: Final = r"[1-9]\d{0,2}(?: \d{3})+(?![\d/-]| /)"
_GROUPED: Final = rf"(?:{GROUPED_BY_COMMAS}|[1-9]\d{{0,2}}(?:'\d{{3}})+|{_BY_SPACE})(?!\d)"
_NUMERAL: Final = rf"(?:(?:{_GROUPED}|\d+)(?:\.\d*)?|\.\d+)(?:e[-+]?\d{{1,3}})?"
_SCALE: Final = "|".join(SCALES)
_PERCENT: Final = r"%|percent\b|per cent\b"
_SIGNED: Final = r"negative |minus "
_WHOLE: Final = re.compile(
    rf"(?P<sign>[-+]|{_SIGNED})? ?(?:US|[AC])?{CURRENCY}? ?(?P<inner>[-+]?)(?:(?P<units>\d+) (?=\d+ ?/ ?\d))?(?P<top>{_NUMERAL})"
    rf"(?: ?/ ?{CURRENCY}?(?P<below>[-+]?{_NUMERAL}))?(?: ?(?P<scale>{_SCALE})\b)? ?(?P<percent>{_PERCENT})? ?{CURRENCY}?",
    re.IGNORECASE,
)
CHUNK: Final = re.compile(
    rf"(?=[-+$£€¥₹.\dnm])(?:negative |(?:(?<=\bis )|(?<=\bto )|(?<=\bat )|(?<=\bof )|(?<=\bbe )|(?<=\bwas )|^)minus |(?<![\w)\]}}])[-+])?"
    rf"{CURRENCY}?(?:(?<![\w)\]}}])[-+])?(?<![\w^./])(?<![\^_]\{{)(?:\d+ (?=\d+/\d))?"
    rf"(?:(?:{_BY_SPACE}|\d+)(?:(?:[.,:']| ?[/–—~+*×·-] ?| to ){CURRENCY}?\.?(?:{_BY_SPACE}|\d+))*|\.\d+)(?:e[-+]?\d+)?"
    rf"(?: (?:{_SCALE})\b)?(?: ?(?:{_PERCENT}))?",
    re.IGNORECASE,
)
"""A number in a text with everything that touches it, so that no part of a longer form is taken for a number."""
_SEVERAL_IN_BRACKETS: Final = re.compile(r",|\d \d+(?! ?/|\d)")
_BRACKETED: Final = re.compile(r"(?<![\w)\]}])([-+]) ?\(([\d.,' ]+)\)")
_EXPONENT: Final = re.compile(r"(?<=[a-zA-Z])(?:\^\{?[23]\}?|[²³])|\^\{?(?:\\circ|st|nd|rd|th)\}?|[°º]")
_UNIT_BEHIND: Final = re.compile(
    r"(?<=[\d.}])\s*\\(?:text|mbox|mathrm)\s*\{\s*+(?!hundred|thousand|[mbtr]+illion|per ?cent)[^{}\d]*\}\s*$"
)

Readings = tuple[str, ...]


def _fraction(numeral: str) -> Fraction:
    return Fraction(Decimal(re.sub("[,' ]", "", numeral)))


def _readings(match: re.Match[str]) -> Readings:
    """Possible values of a match of `_WHOLE`, the literal value first; empty if it is no number or implausibly long."""
    if len(match[0]) > 4 * MOST_DIGITS:
        return ()
    value, below = _fraction(match["top"]), match["below"]
    if below is not None:
        if not (under := _fraction(below)):
            return ()
        value /= under
    if match["units"]:
        if match["scale"] or value >= 1 or match["top"].count("."):
            return ()
        value += int(match["units"])
    sign = (match["sign"] or "").casefold()
    value *= -1 if (sign[:1] in ("-", "n", "m") and bool(sign)) != ("-" in match["inner"]) else 1
    values = [value / 100, value] if match["percent"] else [value]
    if match["scale"]:
        values.insert(0, value * 10 ** SCALES[match["scale"].casefold()])
    if max(abs(values[0].numerator), values[0].denominator) >= 10**MOST_DIGITS:
        return ()
    return tuple(map(str, values))


def cleaned(text: str) -> str:
    """`text` in plain characters, without exponents of units (5 cm², 90°, 3^{rd}) and brackets around a signed number."""
    plain = strip_latex(text)
    plain = _EXPONENT.sub("", plain) if any(map(plain.__contains__, "^²³°º")) else plain
    return _BRACKETED.sub(r"\1\2", plain) if "(" in plain else plain


def whole(text: str) -> Readings:
    """Readings of a text that consists of one number only, as reduced fractions or integers; a percentage has two."""
    if _INTEGER.fullmatch(text):
        return (str(int(text)),)
    cleaned = strip_latex(text).strip(" $").rstrip(". ")
    sign = cleaned[:1] if cleaned[:1] in "+-" else ""
    if (bare := cleaned[len(sign) :].strip()).startswith("(") and bare.endswith(")") and not _SEVERAL_IN_BRACKETS.search(bare):
        cleaned = sign + bare[1:-1].strip()
    if match := _WHOLE.fullmatch(cleaned):
        return _readings(match)
    return whole(_UNIT_BEHIND.sub("", text)) if _UNIT_BEHIND.search(text) else ()


def spelled(text: str) -> Readings:
    """The number in words at the start of a text."""
    value = leading_number(text)
    if value is None:
        return ()
    return (str(value / 100), str(value)) if re.match(r"[\w\s-]+ per ?cent\b", text) else (str(value),)


def of_chunk(text: str, chunk: re.Match[str]) -> Readings:
    """Readings of a number-like chunk of `text`; empty for ranges, times, factors and powers."""
    match = _WHOLE.fullmatch(chunk[0])
    behind = text[chunk.end() : chunk.end() + 1]
    return _readings(match) if match and behind not in ("^", "²", "³", "!") else ()
