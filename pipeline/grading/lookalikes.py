"""Normalises look-alike characters before any other reading step.

Only changes that a reader would not notice: invisible characters are removed; spaces of every width become one kind; full-width letters and
digits and the many minus signs become ASCII; vulgar fractions become a/b; Markdown emphasis around words is removed. Superscripts are kept:
`m²` is a unit, and full NFKC would turn it into `m2`.
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
    | str.maketrans({"⁄": "/", "∕": "/", "٪": "%", "﹪": "%", "“": '"', "”": '"', "‘": "'", "’": "'"})
)
_GROUPS: Final = re.compile(rf"(?<=\d)[{_SPACES}](?=\d{{3}}(?!\d))")
_MIXED: Final = re.compile(rf"(?<=\d)(?=[{_VULGAR}])")
_DASH: Final = re.compile(r"(?<![\w)\]}%])–(?=[\d.$\\])")
_EMPHASIS: Final = re.compile(r"(?<!\S)([(\"'\[]?)(\*{1,3}|_{1,3}|`)(?=\S)|(?<=\S)(\*{1,3}|_{1,3}|`)(?=[\s.,:;!?)\"'\]]|$)")


def normalise_characters(text: str) -> str:
    """`text` in the characters that this package expects; an en dash used as the sign of a number becomes a minus, other en dashes stay."""
    if text.isascii():
        return text
    return _DASH.sub("-", _MIXED.sub(" ", _GROUPS.sub("", text))).translate(_TABLE)


def strip_emphasis(text: str) -> str:
    """`text` without Markdown emphasis and code marks around words; `2**3` and `a * b` are kept."""
    return _EMPHASIS.sub(r"\1", text) if "*" in text or "_" in text or "`" in text else text
