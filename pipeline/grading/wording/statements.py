r"""Finds where a text gives its answer: the boxes, and the statements "the answer is ...", "Answer: ...", "#### ..." and similar.

The grammar of a statement: an announcement (a noun such as "answer", perhaps of what, and a verb or a colon) and a wording, which goes on
to the end of the line or to the next statement. A statement is not committed if a hedge stands in its announcement, between it and the
answer, or in the same clause; if it asks; or if it only says what would hold under a condition.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from pipeline.grading.wording.hedges import ADJECTIVE, ADVERB, DENIES, DOUBT, HEDGE, MODAL, SEEM
from pipeline.grading.wording.lookalikes import strip_emphasis
from pipeline.grading.wording.sentences import SENTENCE_END, claims

_BOX: Final = re.compile(r"\\(?:boxed|fbox)(?:\s*(\{)|\s+(?=[^\s{])|(?=\d))")
_BARE: Final = re.compile(r"[^\s$\\,;]+")
_ALL_BRACES: Final = re.compile(r"[{}]")
_BRACES: Final = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN: Final = re.compile(
    r"[\s$*]*(?:\\[)\],; ])?[\s$*]*(?:,|;|&|/|,?\s*(?:\\text\{\s*)?\b(?:and|or)"
    rf"(?: (?:{ADVERB}|also|else|even))?\b(?:\s*\}})?)[\s$*]*"
    r"(?:\\[(\[,; ])?[\s$*]*(?:[a-zA-Z]\s*=\s*)?"
)
_KEYS: Final = ("nswer", "NSWER", "inal result", "inal Result", "ption", "hoice", "####", "答案", "答え")
_NOUN: Final = (
    r"(?:(?<!each )(?<!every )(?<!possible )(?<![a-zA-Z])answers?|\bfinal result|(?:(?<=correct )|(?<=right )|(?<=best )"
    r"|(?<=final ))(?:option|choice))"
)
_OF: Final = (
    r"(?:\s*\([^()\n]{0,40}\)|\s+(?:to|for|of|in|here|choice|option)\b(?! (?:this|the|your)? ?(?:question )?,)[^.:=\n]{0,80}?)?"
)
_VERB: Final = (
    r"(?:(?:might|may|could|must|should|would|will|can|has to|ought to|is going to|seems to"
    r"|appears to)\s+(?:\w+\s+)?(?:be|equal)|(?:\w+ly\s+)?(?:is|are|equals?)"
    rf"|{ADVERB}\s+is)"
)
_STATED: Final = re.compile(
    rf"{_NOUN}(?![a-z])[\"'*_)\]]*(?:\s*(?:=|→|->)|{_OF}\s*(?:\b{_VERB}\b|[:：]|(?=(?:cannot|can't|can not|isn't)\b)))"
    r"[*_\s]*:?\s*(?:(?:`{3}\w*|\$\$|\\\[)\s*\n\s*)?"
    r"|(?<=<)answer>\s*|(?<![^\n])#{4}\s*|(?:正确|最终)?(?:答案|答え)(?:应该)?(?:选|是|为|為|は)?\s*[:：]?\s*",
    re.IGNORECASE,
)
_HEADING: Final = re.compile(r"\W*(?:final\s+)?answer\W*\n\s*", re.IGNORECASE)
_OVER: Final = re.compile(r"</answer>|<\|")
_UNSURE_BEFORE: Final = re.compile(
    rf"{DOUBT}|\b(?:guess|suspect|lean\w*|torn)\b|{DENIES}|\b(?:{ADJECTIVE}|likely)\s*\Z"
    rf"|\b{SEEM}(?: to me)?(?: like| that| as if)?\W+(?:the (?:\w+ )?)?\Z",
    re.IGNORECASE,
)
_GIVES_UP: Final = re.compile(
    r"\b(?:cannot|can't|can not|could ?n[o']t|am unable to|are unable to|do not|don't|impossible to) (?:\w+ )?"
    r"(?:determine|find|give|compute|provide|know|tell|decide|settle on|choose|pick)\b[^.!?\n]{0,30}\b(?:answer|option|choice)s?\b",
    re.IGNORECASE,
)
"""Who says that there is no answer."""
_GIVES_UP_KEYS: Final = ("not ", "n't ", "unable ", "impossible ")
"""One of these is in every text, in small letters, that `_GIVES_UP` finds something in."""
NO_ANSWER: Final = re.compile(
    r"\W*(?:currently |still |simply )?"
    r"(?:unknown|unclear|unavailable|undetermined|indeterminate|undefined|ambiguous|missing"
    r"|not (?:known|clear|given|listed|determined|here|there|available|stated|among\b[^.]*)"
    r"|(?:can ?not|can't|could ?n[o']t) be (?:determined|found|known|calculated|computed|given|answered)"
    r"|impossible to \w+|whatever\b[^.]*|left (?:open|blank|to the reader)|up to you)\b",
    re.IGNORECASE,
)
"""What a statement says that has no answer."""
_IF: Final = re.compile(r"\b(?:if|were|had|suppose|assuming|unless)\b", re.IGNORECASE)
_WOULD: Final = re.compile(r"\b(?:would|might|could) (?:\w+ )?be\b", re.IGNORECASE)
_UNSURE_VERB: Final = re.compile(
    rf"\b(?:(?:{MODAL}|can|{SEEM})\s+(?:to\s+)?(?:\w+\s+)?(?:be|equal)|(?:{ADVERB}|likely)\s+(?:is|are|equals?))\W*\Z",
    re.IGNORECASE,
)
_REACH: Final = 200
"""Characters before a statement that are searched for the beginning of its sentence."""


class Box(NamedTuple):
    """A complete box: start, end and content."""

    start: int
    end: int
    content: str


class Statement(NamedTuple):
    """Where a statement starts and ends, what it says, and whether the text commits to it: its announcement, and its wording."""

    start: int
    end: int
    wording: str
    committed: bool = True
    doubted: bool = False


def _closings(text: str, start: int) -> dict[int, int]:
    """Positions of the closing brace for each brace opened from `start` on; matches unescaped braces, otherwise all braces."""
    closings = {}
    for braces in (_ALL_BRACES, _BRACES):
        opened: list[int] = []
        for brace in braces.finditer(text, start):
            if brace[0] == "{":
                opened.append(brace.start())
            elif brace[0] == "}" and opened:
                closings[opened.pop()] = brace.start()
    return closings


def last_boxes(text: str) -> list[Box]:
    """The last complete box, preceded by the boxes that a comma, "and" or "or" joins to it."""
    found = list(_BOX.finditer(text)) if "box" in text else []
    closings = _closings(text, found[0].start()) if found else {}
    complete = []
    for box in found:
        if box[1] is None:
            bare = _BARE.match(text, box.end())
            content, end = (bare[0].rstrip(".:"), bare.end()) if bare else ("", box.end())
        else:
            end = closings.get(box.start(1), 0)
            content = text[box.end() : end]
        if content.strip():
            complete.append(Box(box.start(), end + 1 if box[1] else end, content))
    run = complete[-1:]
    for before in reversed(complete[:-1]):
        if not _BETWEEN.fullmatch(text, before.end, run[0].start):
            break
        run.insert(0, before)
    return run


def announced(text: str) -> Iterator[tuple[int, int]]:
    """Spans of "the answer is" and similar phrases. Searches for keywords first, since most of a text contains none."""
    for key in _KEYS:
        place = text.find(key)
        while place >= 0:
            line = text.rfind("\n", 0, place) + 1
            start = max(0, place - (key[0].isascii() and key[0].isalpha()))
            if match := _STATED.match(text, start) or _HEADING.match(text, line):
                yield match.span()
            place = text.find(key, place + 1)


def _value_of_key(text: str, start: int, begin: int) -> tuple[str, int] | None:
    """The value of the key "answer" of a JSON object as text, with its end; `None` if the statement is not such a key."""
    colon = re.search(r"[\"']\s*:\s*", text[start:begin])
    if colon is None or text[start - 1 : start] not in ("'", '"', "_"):
        return None
    with suppress(ValueError):
        value, end = json.JSONDecoder().raw_decode(text, start + colon.end())
        if isinstance(value, str | int | float):
            return str(value), end
    return None


def _commitment(text: str, start: int, begin: int, end: int) -> tuple[bool, bool]:
    """Whether the text commits to the statement from `start` on, and whether its wording, `begin` to `end`, has doubts."""
    nearest = max(0, start - _REACH)
    sentence = max((match.end() for match in SENTENCE_END.finditer(text, nearest, start)), default=nearest)
    before, announcement = text[sentence:start], text[start:begin]
    wording_ends = SENTENCE_END.search(text, begin, end)
    wording = text[begin : wording_ends.end() if wording_ends else end].strip()
    conditional = _IF.search(before) and _WOULD.search(announcement)
    hedged = _UNSURE_BEFORE.search(before) or _UNSURE_VERB.search(announcement)
    doubted = wording.endswith("?") or any(HEDGE.search(clause) for clause in claims(f"it is {strip_emphasis(wording)}"))
    return not (conditional or hedged), doubted


def statements(text: str) -> list[Statement]:
    """Every statement of the answer, last first. A wording ends where the next statement begins."""
    found, following = [], len(text)
    for start, begin in sorted(set(announced(text)), reverse=True):
        line = text.find("\n", begin, following)
        end = max(begin, line if line >= 0 else following)
        if value := _value_of_key(text, start, begin):
            found.append(Statement(start, value[1], value[0]))
        else:
            wording = strip_emphasis(_OVER.split(text[begin:end])[0]).strip()
            found.append(Statement(start, end, wording, *_commitment(text, start, begin, end)))
        following = start
    plain = text.casefold()
    if any(map(plain.__contains__, _GIVES_UP_KEYS)):
        found += [Statement(match.start(), match.end(), "", committed=False) for match in _GIVES_UP.finditer(text)]
    return sorted(found, reverse=True)
