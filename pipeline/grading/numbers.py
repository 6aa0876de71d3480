r"""Reads numbers: 1,000; $12.50; 3/4; 1 1/2; 75%; 1.2e3; 5 million; twelve; 18 dollars.

Values are exact fractions; `rounding.py` decides which values a decimal may stand for. `75%` is read as 3/4 and also as 75, and `5 million`
also as 5, because questions that ask for a percentage or for millions have such gold answers (our choice). A range, a time, a date or a
choice between numbers is not a number. Neither is a number followed by a factor that is not a unit (`5x`, `2\pi`, `2^{10}`). These give no
answer instead of a part of one.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

from pipeline.grading.latex import strip_latex
from pipeline.grading.lookalikes import strip_emphasis

MOST_DIGITS: Final = 60
_TAIL: Final = 160
_INTEGER: Final = re.compile(r"-?\d{1,18}")
_NUMERAL: Final = r"(?:(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)(?:\.\d*)?|\.\d+)(?:e[-+]?\d{1,3})?"
_SCALES: Final = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_WHOLE: Final = re.compile(
    rf"(?P<sign>[-+]?) ?[$£€¥₹]? ?(?P<inner>[-+]?)(?:(?P<units>\d+) (?=\d+ ?/ ?\d))?(?P<top>{_NUMERAL})"
    rf"(?: ?/ ?[$£€¥₹]?(?P<below>[-+]?{_NUMERAL}))?"
    rf"(?: ?(?P<scale>{'|'.join(_SCALES)}))? ?(?P<percent>%|percent\b|per cent\b)? ?[$£€¥₹]?",
    re.IGNORECASE,
)
_CHUNK: Final = re.compile(
    r"(?=[-+$£€¥₹.\d])(?:(?<![\w)\]}])[-+])?[$£€¥₹]?(?:(?<![\w)\]}])[-+])?(?<![\w^./])(?<![\^_]\{)(?:\d+ (?=\d+/\d))?"
    r"(?:\d+(?:(?:[.,:]| ?[/–—~+*×·-] ?| to )[$£€¥₹]?\.?\d+)*|\.\d+)(?:e[-+]?\d+)?"
    rf"(?: (?:{'|'.join(_SCALES)})\b)?(?: ?%| percent\b| per cent\b)?",
    re.IGNORECASE,
)
_SENTENCE: Final = re.compile(r"[.?!](?:\s|$)|\n")
_GOES_ON: Final = re.compile(r",\s|\b(?:which|is|are|or|so|meaning|then)\b")
_SPACED: Final = re.compile(r"(?<![\d.,])(\d{1,3}(?: \d{3})+)(?![\d/]| /)")
_ENUMERATOR: Final = re.compile(r"^[ \t]*\d+[.)][ \t]+(?=\S)", re.MULTILINE)
_EXPONENT: Final = re.compile(r"(?<=[a-zA-Z])\^\{?[23]\}?|[²³]|\^\{?(?:\\circ|st|nd|rd|th)\}?|[°º]")
_VARIABLE: Final = r"(?:[abcefijknopqrtuvwxyz]| [xyzn])\b"
_NO_NUMBER: Final = re.compile(
    rf"[\\^*×·÷√π!_<>≤≥|±]|\d{_VARIABLE}|\d\(|\d ?/ ?[a-z]\b|[a-z)] ?/ ?\d|\b[a-z] ?[-+] ?\d|\d ?[-+] ?(?:[a-z]\b|\()"
)
_FACTOR: Final = re.compile(
    rf"{_VARIABLE}|\(| ?(?:[\\^*×·÷√π!_+<>≤≥|±]|/ ?(?:[a-z]\b|\()|[-–] ?[\d(]|\d|[-+] ?[a-z]\b)"
    r"| ?(?:times|plus|minus|multiplied|divided|out of|dozen)\b| of \$?\d"
)
_NEGATIVE: Final = re.compile(r"^(?:negative|minus) (?=[$\d.])", re.IGNORECASE)
_JOINED: Final = re.compile(r"\b(?:and|or|to)\s+[-+]?[$£€¥₹]?\.?\d", re.IGNORECASE)
_CLAUSE: Final = re.compile(r"[;(]|,(?!\d)|\s(?:because|since|which|where|so|if|when|after)\b", re.IGNORECASE)
_LEAD: Final = re.compile(
    r"(?:[:=≈~\s]|\$(?=\D)|(?:that|a total of|about|approximately|roughly|around|exactly|only|just|equal to|then|therefore|thus)\b)+",
    re.IGNORECASE,
)
_UNIT_BEHIND: Final = re.compile(
    r"(?<=[\d.}])\s*\\(?:text|mbox|mathrm)\s*\{\s*+(?!hundred|thousand|[mbtr]+illion|per ?cent)[^{}\d]*\}\s*$"
)
_WORDED: Final = re.compile(
    r"[a-z]+(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?\b(?! ?(?:of|and|or|to|point|dozen|hundred|thousand|[mbtr]+illion)\b)",
    re.IGNORECASE,
)
_TO_NINETEEN: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS: Final = {word: value for value, word in enumerate(_TO_NINETEEN)} | {
    f"{ten}-{unit}" if value else ten: tens * 10 + value
    for tens, ten in enumerate(_TENS, 2)
    for value, unit in enumerate(_TO_NINETEEN[:10])
}


def _fraction(numeral: str) -> Fraction:
    return Fraction(Decimal(numeral.replace(",", "")))


def _readings(match: re.Match[str]) -> tuple[str, ...]:
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
    value *= -1 if "-" in match["sign"] + match["inner"] else 1
    values = [value / 100, value] if match["percent"] else [value]
    if match["scale"]:
        values.insert(0, value * 10 ** _SCALES[match["scale"].casefold()])
    if max(abs(values[0].numerator), values[0].denominator) >= 10**MOST_DIGITS:
        return ()
    return tuple(map(str, values))


def whole(text: str) -> tuple[str, ...]:
    """Readings of a text that consists of one number only, as reduced fractions or integers; a percentage has two."""
    if _INTEGER.fullmatch(text):
        return (str(int(text)),)
    cleaned = _SPACED.sub(lambda spaced: spaced[0].replace(" ", ""), strip_latex(text)).strip(" $").rstrip(". ")
    if cleaned.startswith("(") and cleaned.endswith(")"):
        cleaned = cleaned[1:-1].strip()
    if match := _WHOLE.fullmatch(cleaned):
        return _readings(match)
    return whole(_UNIT_BEHIND.sub("", text)) if _UNIT_BEHIND.search(text) else ()


def _worded(text: str) -> tuple[str, ...]:
    """The number word at the start of a text; "one of" does not count."""
    word = _WORDED.match(text)
    value = _WORDS.get(word[0].casefold().replace(" ", "-")) if word and not re.search(r"\d", text) else None
    return () if value is None else (str(value),)


def _mentioned(text: str, chunk: re.Match[str]) -> tuple[str, ...]:
    """Readings of a number-like chunk of `text`; empty for ranges and times."""
    match = _WHOLE.fullmatch(chunk[0])
    return _readings(match) if match and text[chunk.end() : chunk.end() + 1] != "^" else ()


def _led(text: str) -> str:
    """`text` without the words that introduce a number; "negative 5" becomes -5."""
    lead = _LEAD.match(text)
    return _NEGATIVE.sub("-", text[lead.end() :] if lead else text, count=1)


def boxed(text: str) -> tuple[str, ...]:
    """Readings of a box: a number, a number with its unit, or the only number among words (x=5, about 18 dollars)."""
    if found := whole(text):
        return found
    cleaned = _EXPONENT.sub("", strip_latex(text))
    for part in (_led(re.split(r"[=≈]", cleaned)[-1]), cleaned):
        if found := whole(part):
            return found
        chunks = list(_CHUNK.finditer(part))
        if len(chunks) == 1 and not _NO_NUMBER.search(part):
            return _mentioned(part, chunks[0])
    return _worded(cleaned)


def phrase(text: str) -> tuple[str, ...] | None:
    """Readings of the text after "the answer is"; empty if it is not exactly one number, `None` if it contains no number."""
    sentence = _SENTENCE.split(_led(_EXPONENT.sub("", strip_latex(text))), maxsplit=1)[0]
    clause = _led(re.split(r"[=≈]", _CLAUSE.split(sentence, maxsplit=1)[0])[-1]).strip()
    if found := whole(clause):
        return found
    if chunk := _CHUNK.match(clause):
        match = _WHOLE.fullmatch(chunk[0])
        single = match and not _FACTOR.match(clause, chunk.end()) and not _JOINED.search(clause, chunk.end())
        return _readings(match) if match and single else ()
    if found := _worded(clause):
        return found
    for part in (clause, sentence):
        if chunks := list(_CHUNK.finditer(part)):
            return () if _JOINED.search(clause) else _mentioned(part, chunks[-1])
    return None


def last(text: str) -> tuple[str, ...]:
    """Readings of the last number in a text, or of the number after the last equals sign of its clause (= 28 dollars after 7 days).

    List numbers at line starts are ignored. Empty if the number is a range or a time.
    """
    for part in (text[-_TAIL:], text):
        cleaned = _ENUMERATOR.sub("", strip_latex(strip_emphasis(part)))
        chunks = list(_CHUNK.finditer(cleaned))
        if len(chunks) > 1 or part == text:  # the first chunk of the tail may be truncated
            break
    if not chunks:
        return ()
    ends = _SENTENCE.finditer(cleaned, 0, chunks[-1].start())
    begins = max((end.end() for end in ends), default=0)
    equals = max(cleaned.rfind("=", begins), cleaned.rfind("≈", begins))
    result = next((chunk for chunk in chunks if chunk.start() > equals >= 0), chunks[-1])
    goes_on = _GOES_ON.search(cleaned, result.end(), chunks[-1].start())
    return _mentioned(cleaned, chunks[-1] if goes_on else result)
