"""Reads dates as ISO 8601: 03/04/2021 is 4 March (month first, as in BIG-bench); also 2021-03-04, March 4th, 2021, 4 March 2021.

A leading weekday is ignored. Two-digit years, dates without a year and dates that do not exist (13/04/2021) are not read, because any
interpretation would be a guess.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from pipeline.grading.wording.latex import strip_latex
from pipeline.grading.wording.lookalikes import strip_emphasis

_MONTHS: Final = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"
)  # fmt: skip
_MONTH: Final = rf"({'|'.join(f'{name[:3]}(?:{name[3:]})?' for name in _MONTHS)}|sept)\.?"
_DAY: Final = r"(\d{1,2})(?:st|nd|rd|th)?"
_DATE: Final = re.compile(
    r"(?<![\w/-])(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+)?(?:the\s+)?(?:"
    r"(\d{1,2})([/-])(\d{1,2})\2(\d{4})"
    r"|(\d{4})([/-])(\d{1,2})\6(\d{1,2})"
    rf"|{_MONTH}\s+{_DAY}(?:,\s*|\s+)(\d{{4}})"
    rf"|{_DAY}\s+(?:of\s+)?{_MONTH},?\s+(\d{{4}})"
    r")(?![\w/-])",
    re.IGNORECASE,
)


def _iso(match: re.Match[str]) -> str | None:
    month, _, day, year, iso_year, _, iso_month, iso_day, name, after, named_year, before, name_after, year_after = (
        match.groups()
    )
    written = (name or name_after or "").casefold()[:3]
    number = next(n for n, full in enumerate(_MONTHS, 1) if full.startswith(written)) if written else int(month or iso_month)
    try:
        return date(
            int(year or iso_year or named_year or year_after), number, int(day or iso_day or after or before)
        ).isoformat()
    except ValueError:
        return None


def whole(text: str) -> tuple[str, ...]:
    """The date of a text that consists of one date only."""
    match = _DATE.fullmatch(strip_latex(text).strip().strip("*\"'`$.").strip())
    found = _iso(match) if match else None
    return () if found is None else (found,)


def phrase(text: str) -> tuple[str, ...] | None:
    """The only date in a text; empty if there are several, `None` if there is none."""
    found = {_iso(match) for match in _DATE.finditer(strip_latex(text))}
    if not found:
        return None
    only = found.pop()
    return () if found or only is None else (only,)


def last(text: str) -> tuple[str, ...]:
    """The last date in a text."""
    found = [_iso(match) for match in _DATE.finditer(strip_latex(strip_emphasis(text)))]
    return (found[-1],) if found and found[-1] is not None else ()
