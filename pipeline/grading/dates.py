"""Reads dates as ISO 8601: 03/04/2021 is 4 March (month first, as in BIG-bench); also 2021-03-04, March 4th, 2021, 4 March 2021.

A leading weekday is ignored. A date that is set aside ("not 03/05/2021"), that only explains ("since yesterday was ...") or that stands
in a list of options is not the answer. Two-digit years, dates without a year and dates that do not exist (13/04/2021) are not read,
because any interpretation would be a guess.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from pipeline.grading.wording.hedges import HEDGE
from pipeline.grading.wording.latex import strip_latex
from pipeline.grading.wording.lookalikes import strip_emphasis
from pipeline.grading.wording.sentences import SENTENCE_END, claim, claimed, claims, sentences, without_options

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

_NO_DATE: Final = "0000-00-00"
"""Stands for a date that does not exist."""
_ISO: Final = re.compile(r"\b\d{4}-\d\d-\d\d\b")
_RELATIVE: Final = re.compile(rf"\b(?:after|before|since|than)\s+{_ISO.pattern}", re.IGNORECASE)


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


def boxed(text: str) -> tuple[str, ...]:
    """The date of a box."""
    return whole(text) or (() if HEDGE.search(text) else phrase(text) or ())


def _in_iso(text: str) -> str:
    """A text in which every date is one word, so that its commas and points divide nothing."""
    return _DATE.sub(
        lambda match: f" {_iso(match) or _NO_DATE}" if match[0][:1].isspace() else _iso(match) or _NO_DATE, strip_latex(text)
    )


def phrase(text: str) -> tuple[str, ...] | None:
    """The date that the first sentence with a date claims; empty if there are several, `None` if there is none."""
    plain = without_options(_in_iso(text))
    return next((found for sentence in SENTENCE_END.split(plain) if (found := _of_sentence(sentence)) is not None), None)


def last(text: str) -> tuple[str, ...]:
    """The date that the last sentence with a date claims."""
    plain = _in_iso(strip_emphasis(text))
    for begin, end in sentences(plain):
        sentence = plain[begin:end].strip()
        if (found := _of_sentence(sentence)) is not None:
            return () if HEDGE.search(sentence) or sentence.endswith("?") else found
    return ()


def _of_sentence(sentence: str) -> tuple[str, ...] | None:
    """The date that the last claim of a sentence names; empty if it names several, `None` if the sentence names none."""
    if not _ISO.search(sentence):
        return None
    for clause in [*reversed(claims(sentence)), claim(sentence)]:
        if found := set(_ISO.findall(_RELATIVE.sub("", claimed(clause, _ISO)))):
            only = found.pop()
            return () if found or only == _NO_DATE else (only,)
    return ()
