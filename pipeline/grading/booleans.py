"""Reads yes/no and true/false answers.

A verdict is one of the four words used as a judgement, not as a determiner: "No, he could not", "so yes", "the statement is false."; not
"no longer", "true or false", "if so, then yes". "Not true" is no and "not false" is yes, but "not entirely true" is neither. A verdict that
opens a sentence after "therefore", "conclusion:" and similar words counts as stated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pipeline.grading.wording.hedges import ADVERB, DENIES, GUESS, HEDGE, I_GUESS, MODAL, NOT_SURE, SEEM
from pipeline.grading.wording.latex import strip_latex
from pipeline.grading.wording.lookalikes import strip_emphasis
from pipeline.grading.wording.sentences import sentences
from pipeline.grading.wording.statements import Statement

_WORDS: Final = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_OPPOSITE: Final = {"yes": "no", "no": "yes"}
_LEADING: Final = re.compile(
    r"\W*(?:(?:that|definitely|indeed|clearly|simply|therefore|thus|certainly)\W+)*(yes|no|true|false)\b(?!-)", re.IGNORECASE
)
_DETERMINING: Final = re.compile(r"\s+(?!because|since|as\b|and\b|but\b|for\b|if\b|unless|given|due)\w", re.IGNORECASE)
_OTHER: Final = re.compile(r"\s*(?:,?\s*(?:or|and)\b|/)\s*(?:yes|no|true|false)\b", re.IGNORECASE)
_VERDICT: Final = re.compile(
    r"(?<!then )(?<!or )(?<!/ )(?<![\w/-])(yes|no)\b(?=\s*(?:[,.;:!?)\"'*]|$))|(?<!or )\b(true|false)\b(?=\s*(?:[.;!?)\"'*]|$))",
    re.IGNORECASE | re.MULTILINE,
)
_NEGATED: Final = re.compile(
    r"(?:\bnot|n't|\bcannot|\bnever|\bneither|\bhardly|\bnor)\s+(?P<between>(?:\w+\s+){0,3})\Z", re.IGNORECASE
)
_BE: Final = re.compile(r"(?:(?:be|been|a|the|is|really|actually|at all|in fact)\s+)*", re.IGNORECASE)
_DOUBT_BEHIND: Final = re.compile(
    rf"\A\W*(?:{ADVERB}\b|likely|{I_GUESS}|(?:it|that) {SEEM}\b|{NOT_SURE}|\?|(?:and|or) (?:yes|no|true|false)\b)",
    re.IGNORECASE,
)
_PARTLY: Final = "(?:partly|partially|half|almost|nearly|mostly|far from|anything but)"
_LEFT_OPEN: Final = re.compile(
    rf"(?:\b(?:{ADVERB}|likely|{GUESS}|leaning|inclined|hunch|{SEEM}|{MODAL} be|{_PARTLY}|(?:false|wrong|incorrect) to say"
    r"|not the case that\W+(?:\w+\W+){0,3}|(?:doubt|deny|denies|no way)\W+(?:\w+\W+){0,4}|(?:yes|no|true|false),? (?:and|or))"
    rf"|{DENIES} (?:\w+ ){{0,4}}|{NOT_SURE}\W+(?:but )?)\W*(?:(?:the answer is|it is|it's|is|a|that|so|to be|to say|towards?)\W+)?\Z",
    re.IGNORECASE,
)
"""What before a verdict says that it is a guess, not quite so, denied, or one of two."""
_NOT_SURE: Final = re.compile(NOT_SURE, re.IGNORECASE)
_CONCLUSION: Final = re.compile(
    r"\b(?:so|therefore|thus|hence|consequently|overall|(?:in )?(?:conclusion|summary|short)|answer (?:the|your|this) question)\b"
    r"[\s,:*]*(?=(?:yes|no)\b\W*(?:[,.;:!]|$))",
    re.IGNORECASE | re.MULTILINE,
)


def whole(text: str) -> tuple[str, ...]:
    """yes or no for a text that consists of one of the four words only."""
    word = _WORDS.get(strip_latex(text).strip().strip("*\"'`$").rstrip(".!").casefold())
    return () if word is None else (word,)


def _judged(text: str, verdict: re.Match[str]) -> str | None:
    """yes or no for a verdict word in its place; `None` if the words around it leave it open."""
    word = _WORDS[(verdict[1] or verdict[2]).casefold()]
    before = text[max(0, verdict.start() - 60) : verdict.start()]
    if _LEFT_OPEN.search(before) or _DOUBT_BEHIND.match(text[verdict.end() : verdict.end() + 30]):
        return None
    negated = _NEGATED.search(before)
    if negated is None:
        return word
    return _OPPOSITE[word] if verdict[2] and _BE.fullmatch(negated["between"]) else None


def phrase(text: str) -> tuple[str, ...] | None:
    """The verdict at the start of a text, otherwise its last one; `None` if there is none."""
    text = strip_latex(text)
    first = _LEADING.match(text)
    if not first or (first[1].casefold() == "no" and _DETERMINING.match(text, first.end())):
        return last(text) or (() if _VERDICT.search(text) else None)
    open_ = _OTHER.match(text, first.end()) or _DOUBT_BEHIND.match(text[first.end() :])
    return () if open_ else (_WORDS[first[1].casefold()],)


def boxed(text: str) -> tuple[str, ...]:
    """The verdict of a box."""
    return whole(text) or (() if HEDGE.search(text) else phrase(text) or ())


def conclusions(text: str) -> Iterator[Statement]:
    """Conclusions such as "Therefore, yes, ..." and "Conclusion: No, ..."."""
    for match in _CONCLUSION.finditer(text):
        behind = text[match.end() : match.end() + 30]
        yield Statement(
            match.start(),
            match.end() + 3,
            behind[:3],
            doubted=bool(_DOUBT_BEHIND.match(behind.lower().removeprefix("yes").removeprefix("no"))),
        )


def last(text: str) -> tuple[str, ...]:
    """The last verdict in a text; empty if it is left open."""
    plain = strip_latex(strip_emphasis(text))
    verdicts = list(_VERDICT.finditer(plain))
    judged = _judged(plain, verdicts[-1]) if verdicts else None
    return () if judged is None or _is_open(plain, verdicts[-1].start()) else (judged,)


def _is_open(text: str, place: int) -> bool:
    """Whether the sentence around a place is a question or says that its writer is not sure."""
    begin, end = next(((begin, end) for begin, end in sentences(text) if begin <= place), (0, len(text)))
    sentence = text[begin:end]
    return sentence.rstrip().endswith("?") or bool(_NOT_SURE.search(sentence))
