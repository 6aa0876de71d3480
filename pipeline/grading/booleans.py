"""Reads yes/no and true/false answers.

A verdict is one of the four words used as a judgement, not as a determiner: "No, he could not", "so yes", "the statement is false."; not
"no longer", "true or false", "if so, then yes". A verdict that opens a sentence after "therefore", "conclusion:" and similar words counts
as stated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pipeline.grading.wording.latex import strip_latex
from pipeline.grading.wording.lookalikes import strip_emphasis
from pipeline.grading.wording.statements import Statement

_WORDS: Final = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_LEADING: Final = re.compile(
    r"\W*(?:(?:that|definitely|indeed|clearly|simply|probably|likely)\W+)*(yes|no|true|false)\b(?!-)", re.IGNORECASE
)
_DETERMINING: Final = re.compile(r"\s+(?!because|since|as\b|and\b|but\b|for\b|if\b|unless|given|due)\w", re.IGNORECASE)
_OTHER: Final = re.compile(r"\s*(?:or|/)\s*(?:yes|no|true|false)\b", re.IGNORECASE)
_VERDICT: Final = re.compile(
    r"(?<!then )(?<!or )(?<!/ )(?<![\w/-])(yes|no)\b(?=\s*(?:[,.;:!)\"'*]|$))|(?<!or )\b(true|false)\b(?=\s*(?:[.;!)\"'*]|$))",
    re.IGNORECASE | re.MULTILINE,
)
_CONCLUSION: Final = re.compile(
    r"\b(?:so|therefore|thus|hence|consequently|overall|(?:in )?(?:conclusion|summary|short)|answer (?:the|your|this) question)\b"
    r"[\s,:*]*(?=(?:yes|no)\b\W*(?:[,.;:!]|$))",
    re.IGNORECASE | re.MULTILINE,
)


def whole(text: str) -> tuple[str, ...]:
    """yes or no for a text that consists of one of the four words only."""
    word = _WORDS.get(strip_latex(text).strip().strip("*\"'`$").rstrip(".!").casefold())
    return () if word is None else (word,)


def phrase(text: str) -> tuple[str, ...] | None:
    """The verdict at the start of a text, otherwise its last one; `None` if there is none."""
    text = strip_latex(text)
    first = _LEADING.match(text)
    if not first or (first[1].casefold() == "no" and _DETERMINING.match(text, first.end())):
        return last(text) or None
    return () if _OTHER.match(text, first.end()) else (_WORDS[first[1].casefold()],)


def conclusions(text: str) -> Iterator[Statement]:
    """Positions and words of conclusions such as "Therefore, yes, ..." and "Conclusion: No, ..."."""
    for match in _CONCLUSION.finditer(text):
        yield Statement(match.start(), match.end() + 3, text[match.end() : match.end() + 3])


def last(text: str) -> tuple[str, ...]:
    """The last verdict in a text."""
    found = [match[1] or match[2] for match in _VERDICT.finditer(strip_latex(strip_emphasis(text)))]
    return (_WORDS[found[-1].casefold()],) if found else ()
