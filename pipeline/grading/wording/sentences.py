"""A small grammar of sentences: where they end, which clauses carry the claim, and which of them claim nothing.

A sentence is divided into clauses at commas and connectives. A clause that opens with a subordinator ("because", "after giving away 3",
"which") only explains, and so do brackets and what stands behind such a word inside a clause. The rest is what the sentence claims. A
sentence that talks to whoever grades the text claims nothing. Our choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pipeline.grading.wording.hedges import VALUE

_LONGEST: Final = 1000
"""Characters of a sentence that are read: degenerate samples repeat one fragment without end."""
SENTENCE_END: Final = re.compile(
    r"[.?!\n](?:(?:(?<=\.)(?<![ap]\.m\.)(?<!\b(?:Dr|Mr|Ms|vs|cf|Rs)\.)(?<!\b(?:Mrs|e\.g|i\.e|etc)\.)(?<!approx\.)|(?<=[?!])[?!]*+)"
    r"[\"')\]]*(?=\s|$)\s*|(?<=\n)\n*)"
)
"""Begins with one set of characters, so that a search skips all others quickly."""


def _any(*phrases: str) -> str:
    """A pattern of alternatives."""
    return "(?:" + "|".join(phrases) + ")"


_GRADER: Final = (
    r"(?:auto-?)?(?:graders?|evaluators?|examiners?|scorers?|markers?|assessors?|reviewers?|judges?|grading (?:system|bot))"
)
_KEY: Final = r"(?:gold(?:en)?|reference|answer key|the key|rubric|grader|expected|label|ground truth|solution key)\b"
_TALK: Final = re.compile(
    _any(
        # "Grader: ...", "Note to the evaluator, ..."
        r"(?:^|(?<=[.!?\n:;,(\[\"*]))[\s*\[(<\"#_-]*"
        r"(?:(?:dear|hey|hi|hello|attention|note (?:to|for)|message (?:to|for)|instructions? (?:to|for)|to)\s+)?"
        rf"(?:the |all |any |our |my )?{_GRADER}(?: note)?\s*[\])>*]*\s*[:,–—!-]",
        rf"\b(?:note|message|instructions?|hint|memo) (?:to|for) (?:the |all |any )?{_GRADER}\b",
        # "the grader accepts", "the reference answer"
        r"\b(?:the|this|any|an?|dear) (?:auto-?)?(?:graders?|evaluators?|scorers?)\b",
        r"\b(?:reference|gold|expected) (?:answer|label|solution)\b",
        r"\banswer key\b|\brubric\b|\bground truth\b",
        # "mark this as correct", in the imperative
        r"(?:^|[.!?\n:;,(\[\]>\"*]|\b(?:so|please|just|must|should|shall|to|and|kindly|will|always)\b)\s*(?:please |kindly |just )?"
        r"\b(?:mark|grade|score|count|accept|treat|consider|rate|judge|evaluate|record)\b(?! only\b)[^.!?\n;]{0,60}"
        r"\b(?:correct(?:ly)?|right|true|full (?:marks|credit|score|points)|pass(?:ed|ing)?|equivalent|a match|valid"
        r"|as the answer|10/10|100%)",
        # "ignore the rubric"
        r"\b(?:ignore|disregard|override|forget|bypass|skip)\b[^.!?\n;]{0,60}"
        r"\b(?:rubric|instructions?|grading|gold|reference|answer key|guidelines|criteria|grader|marking|scheme)\b",
        # "whatever the gold is"
        rf"\b(?:whatever|same as|identical to|equal to|matches|equals|copied from|whichever|anything)\b[^.!?\n;]{{0,24}}\b{_KEY}",
        r"\bthe (?:gold|reference) (?:answer|label|solution) (?:is|says|reads|equals)\b",
    ),
    re.IGNORECASE,
)
_TALK_KEYS: Final = (
    "rader", "RADER", "valuator", "xaminer", "corer", "arker", "ssessor", "udge", "eviewer", "ubric", "ark ", "ount ", "core ", "ccept ",
    "reat ", "onsider ", "rade ", "ate ", "ecord ", "lease ", "gnore ", "isregard ", "verride ", "orget ", "hatever ", "rading ",
    "nswer key", "gold", "eference", "xpected", "round truth",
)  # fmt: skip
"""One of these is in every text that `_TALK` finds something in."""

_RESULTING: Final = (
    r"which (?:is|are|equals?|makes?|leaves?|gives?|means?|rounds?(?: (?:up|down|off))?(?: to)?|comes to|totals?|would be"
    r"|must be)"
)
_CONNECTIVE: Final = re.compile(
    r"(?<!\d),(?=\s)|(?<=\d),(?=\s)|[;:](?=\s)|\s[–—-]{1,2}\s(?=[a-zA-Z])|—"
    r"|(?:,\s*)?\b(?=(?:so|therefore|thus|hence|thereby|but|which (?:is|are|equals?|makes?|means?|rounds?))\b(?! (?:that|many|much)\b))"
)
_SUBORDINATOR: Final = _any(
    "because|since|as|if|when|whenever|while|whilst|after|before|until|unless|although|though|even|given|assuming|supposing|once|whereas",
    "where|whether|who|whose|whom|instead of|rather than|compared|despite|except|excluding|including|unlike|than|considering|provided",
    "due to|in case|in order to|like|without",
)
_OPENS_SUBORDINATE: Final = re.compile(
    rf"\W*(?:(?:and|but|or)\s+)?(?:{_SUBORDINATOR}|for (?:every|each|example|instance)"
    rf"|(?!{_RESULTING}(?: \w+)? {VALUE})which|that (?:is|are|was|were) why)\b",
    re.IGNORECASE,
)
_NO_PURPOSE: Final = _any(
    "the|an?|about|only|just|exactly|negative|minus|roughly|approximately|around|nearly|almost|over|under|at|be|his|her|its|their|my|our|your",
    "this|that|zero|one|two|three|four|five|six|seven|eight|nine|ten|option|choice|answer|letter",
)
"""Words behind "to" that are not the verb of a purpose."""
_INNER: Final = re.compile(
    rf"\s(?:{_SUBORDINATOR}|which|that (?:are|is|was|were|have|has|had|can|could|will|would|cost|weigh|she|he|they|it|we|you|I)"
    rf"|to (?!{_NO_PURPOSE}\b)[a-z]{{2,}})\b",
    re.IGNORECASE,
)
_BRACKETED: Final = re.compile(r"\s*[(\[][^()\[\]\n]*[a-z ,=<>\d][^()\[\]\n]*[)\]]")
_OPTIONS: Final = re.compile(
    r"(?:^|(?<=[.!?\n(]))[ \t*_#]*"
    + _any(
        r"\(?(?:the |other |answer |all |possible |available |remaining )*(?:options|choices|candidates|alternatives)"
        r"(?: (?:were|are|given|include|included|listed|available|provided|to choose from|considered|above|below))*\s*[*_]*:",
        r"(?:the |other )*(?:options|choices) (?:were|are)\b",
    )
    + r"(?:[^\n.!?]|[.!?]+(?=\S)|[.!?]+\s+(?=\(?[A-Z][).:]\s))*[.!?]?(?:\n[ \t]*(?:[-*•]|\(?[A-Za-z0-9][.):])[ \t][^\n]*)*",
    re.IGNORECASE,
)
SETS_ASIDE: Final = "(?:not|rather than|instead of|as opposed to|unlike)"
"""Words behind an answer that name what is not the answer."""
_SET_ASIDE: Final = re.compile(
    rf"(?:^\W*|,?\s+)(?:(?:and|but) )?(?:{SETS_ASIDE}|anything but|everything but|except(?: for)?|over(?=\s[(\[]?(?-i:[A-Z])\b))\s+"
    rf"(?:(?:the|on|in|option|choice|answer|letter)\s+)*(?={VALUE})(?:(?!,\s|;|\bbut\b)[^.!?\n]|\.(?=\S))*",
    re.IGNORECASE,
)
_OPTION_KEYS: Final = ("option", "choice", "candidate", "alternative")
_SET_ASIDE_KEYS: Final = ("not", "thing but", "except", "rather", "instead", "opposed", "unlike", "over")
"""One of these is in every text, in small letters, that `_OPTIONS` or `_SET_ASIDE` finds something in."""


def without_talk_to_graders(text: str) -> str:
    """The text without sentences that tell whoever grades it what to do."""
    if not any(map(text.__contains__, _TALK_KEYS)):
        return text
    kept, begins = [], 0
    for end in [*(match.end() for match in SENTENCE_END.finditer(text)), len(text)]:
        sentence = text[begins:end]
        kept.append("\n" if _TALK.search(sentence) else sentence)
        begins = end
    return "".join(kept)


def without_options(text: str) -> str:
    """The text without a list of the options."""
    plain = text.casefold()
    return _OPTIONS.sub("", text) if any(map(plain.__contains__, _OPTION_KEYS)) else text


def without_denied(sentence: str) -> str:
    """A sentence without what it sets aside: "7, not 5", "B rather than A"."""
    plain = sentence.casefold()
    return _SET_ASIDE.sub("", sentence) if any(map(plain.__contains__, _SET_ASIDE_KEYS)) else sentence


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the sentences of a text, last first."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    begins = [0, *ends]
    for begin, end in zip(reversed(begins), reversed([*ends, len(text)]), strict=True):
        if text[begin:end].strip():
            yield max(begin, end - _LONGEST), end


def claim(sentence: str) -> str:
    """A sentence without brackets and without what it sets aside."""
    plain = without_denied(sentence)
    return _BRACKETED.sub("", plain) if "(" in plain or "[" in plain else plain


def claims(sentence: str) -> list[str]:
    """The clauses of a sentence that carry its claim; those that explain are left out."""
    clauses = [clause for clause in _CONNECTIVE.split(claim(sentence)) if clause.strip()]
    return [clause for clause in clauses if not _OPENS_SUBORDINATE.match(clause)]


def claimed(clause: str, mention: re.Pattern[str]) -> str:
    """A clause up to the first word behind a `mention` that only explains."""
    first = mention.search(clause)
    inner = _INNER.search(clause, first.end()) if first else None
    return clause[: inner.start()] if inner else clause
