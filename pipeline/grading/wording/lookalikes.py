"""Normalises look-alike characters before any other reading step.

Only changes that a reader would not notice: invisible characters are removed; spaces of every width become one kind; digits of every
script, full-width letters and the many minus signs become ASCII; vulgar fractions become a/b; Markdown emphasis around words is removed.
A run of superscripts becomes one exponent: `10²³` is 10^{23}, where full NFKC would give 1023. In scripts without spaces, a Latin letter
or a number stands alone, so a space is put on each side of it, and Chinese dates and ten thousands get the form that the readers know.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_INVISIBLE: Final = "".join(
    map(chr, (0xAD, 0x34F, 0x61C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF))
)
_SPACES: Final = "".join(map(chr, (0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)))
_MINUSES: Final = "‐‑−﹣－"
_VULGAR: Final = "".join(map(chr, (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189)))
_TABLE: Final = (
    {ord(mark): None for mark in _INVISIBLE}
    | {ord(space): " " for space in _SPACES}
    | {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFF5F)}
    | {ord(minus): "-" for minus in _MINUSES}
    | {ord(fraction): unicodedata.normalize("NFKC", fraction).replace("⁄", "/") for fraction in _VULGAR}
    | str.maketrans(
        {"⁄": "/", "∕": "/", "٪": "%", "﹪": "%", "“": '"', "”": '"', "‘": "'", "’": "'", "。": ". ", "、": ", ", "｡": ". "}
    )
)
_SUPERSCRIPTS: Final = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ"
_SUBSCRIPTS: Final = "₀₁₂₃₄₅₆₇₈₉"
_RAISED: Final = re.compile(f"[{_SUPERSCRIPTS}]+")
_LOWERED: Final = re.compile(f"[{_SUBSCRIPTS}]+")
_DIGIT: Final = re.compile(r"(?![0-9])\d")
_UNSPACED: Final = "\u0590-\u1cff\u3005-\u312f\u3400-\u9fff\uac00-\ud7a3"
"""Scripts without capitals, whose letters may touch a Latin letter or a number that does not belong to them."""
_TOUCHING: Final = re.compile(rf"(?<=[A-Za-z0-9%)])(?=[{_UNSPACED}])|(?<=[{_UNSPACED}])(?=[A-Za-z0-9$(\\-])")
_CHINESE_DATE: Final = re.compile(r"(\d{4})\s?年\s?(\d{1,2})\s?月\s?(\d{1,2})\s?[日号]")
_CONNECTIVE: Final = re.compile(r"(,?而不是|不是|或者|或|和|与)(?=\s?[(A-Za-z0-9])")
_CONNECTIVES: Final = {
    "而不是": ", not ",
    ",而不是": ", not ",
    "不是": " not ",
    "或者": " or ",
    "或": " or ",
    "和": " and ",
    "与": " and ",
}
_MYRIADS: Final = re.compile(r"(?<=\d)([千万萬亿億])")
_EXPONENTS: Final = {"千": "e3 ", "万": "e4 ", "萬": "e4 ", "亿": "e8 ", "億": "e8 "}
_GROUPS: Final = re.compile(rf"(?<=\d)[{_SPACES}](?=\d{{3}}(?!\d))")
_MIXED: Final = re.compile(rf"(?<=\d)(?=[{_VULGAR}])")
_DASH: Final = re.compile(r"(?<![\w)\]}%])–(?=[\d.$\\])")
_EMPHASIS: Final = re.compile(r"(?<!\S)([(\"'\[]?)(\*{1,3}|_{1,3}|`)(?=\S)|(?<=\S)(\*{1,3}|_{1,3}|`)(?=[\s.,:;!?)\"'\]]|$)")


def normalise_characters(text: str) -> str:
    """`text` in the characters that this package expects; an en dash used as the sign of a number becomes a minus, other en dashes stay."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda run: f"^{{{unicodedata.normalize('NFKC', run[0]).replace(chr(0x2212), '-')}}}", text)
    text = _LOWERED.sub(lambda run: f"_{{{unicodedata.normalize('NFKC', run[0])}}}", text)
    text = _DASH.sub("-", _MIXED.sub(" ", _GROUPS.sub("", text))).translate(_TABLE)
    if text.isascii():
        return text
    text = _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
    text = _MYRIADS.sub(lambda sign: _EXPONENTS[sign[0]], _CHINESE_DATE.sub(r"\1-\2-\3", text))
    text = _CONNECTIVE.sub(lambda word: _CONNECTIVES[word[0]], text)
    return _TOUCHING.sub(" ", text)


def strip_emphasis(text: str) -> str:
    """`text` without Markdown emphasis and code marks around words; `2**3` and `a * b` are kept."""
    return _EMPHASIS.sub(r"\1", text) if "*" in text or "_" in text or "`" in text else text
