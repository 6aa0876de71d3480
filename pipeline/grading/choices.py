"""Reads multiple-choice answers: by letter (B, (b), B) blue, option B), by choice text, or by the number that equals a choice.

Only letters of existing choices count; a letter that the question does not have is an answer all the same, to nothing that can be graded. A
bare "A" before a word is an article unless the next word starts a reason, so "the answer is a bank" is matched against the choice texts.
Several letters or several choice texts give no answer. Where a text judges the options one by one, the only one that it calls right counts,
or the only one that it does not rule out.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

from pipeline.grading import numbers, quantities
from pipeline.grading.wording.hedges import HEDGE
from pipeline.grading.wording.latex import strip_latex
from pipeline.grading.wording.lookalikes import strip_emphasis
from pipeline.grading.wording.sentences import SENTENCE_END, SETS_ASIDE, claims, sentences, without_denied
from pipeline.grading.wording.statements import Statement

LETTERS: Final = string.ascii_uppercase

_NAME: Final = r"(?i:options?|choices?|answers?|letters?)\s+"
_LETTERED: Final = re.compile(
    rf"(?:{_NAME})?[(\[]?([A-Za-z])[)\]]?+(?:[.:].*|(?<=[)\]])(?!\s*(?:or\b|and\b|[&/,])).*|\s+[–—-]\s.*)?", re.DOTALL
)
_REASON: Final = r"(?:because|since|as|due|for|which|and|or|not|is|in|from|with|if|while|according|based)\b"
_LEADING: Final = re.compile(
    rf"\W*?(?:{_NAME})?\W*?(?:[(\[]([A-Za-z])[)\]]|([B-Z])(?![\w'])|(A)(?![\w'])(?!\s+(?!{_REASON})[a-z]))"
)
_UNLISTED: Final = re.compile(rf"\W*?(?:{_NAME})?\W*?(?:[(\[]([A-Za-z])[)\]]|([A-Z])(?=[.,;:)]|\s*$))")
_MENTION: Final = re.compile(rf"[(\[]([A-Z])[)\]]|{_NAME}([A-Z])\b|\b([A-Z])\b(?=[.)]|\s*$|\s[\u0590-\uffff])")
_BARE: Final = re.compile(r"[(\[]([A-Z])[)\]]|\b([A-Z])\b(?!')")
_JOINT: Final = re.compile(rf"[\s*]*(?:,|/|&|,?\s*\b(?:or|and)\b)[\s*]*(?:{_NAME})?")
_JOINED_BEFORE: Final = re.compile(rf"(?<![\w'])[(\[]?([A-Z])[)\]]?{_JOINT.pattern}\Z")
_LIST_OF: Final = r"(?:\(?[A-Z]\)?(?:\s*,\s*(?:and |or )?|\s+(?:and|or)\s+|\s*&\s*)){0,6}"
_SUBJECT: Final = re.compile(
    rf"(?:{_NAME})?({_LIST_OF}[(\[][A-Z][)\]])|{_NAME}({_LIST_OF}[A-Z])\b"
    rf"|(?:\A|(?<=\band )|(?<=\bbut ))\W*({_LIST_OF}[A-Z])(?=[.):]|\s+(?:is|are|was|can|must|does|do)\b|\s*$)"
)
_ALONE: Final = re.compile(r"\b[A-Z]\b")
"""Is in every clause that has a subject."""
_TICKS: Final = "✓✔✅"
_CROSSES: Final = "✗✘❌"
_OPTION_BY_OPTION: Final = re.compile(
    rf"[;!\n{_TICKS}{_CROSSES}]|(?<=[{_TICKS}{_CROSSES}])"
    r"|(?<!\b[A-Z])\.(?=\s|[A-Z]|$)|,\s+(?=\(?[A-Z][):])|(?<=[a-z]{2}),\s+(?:and\s+|but\s+)?(?=[A-Z]\s+(?:is|are)\b)"
)
_IS: Final = (
    r"\b(?:is|are|was|were|must be|has to be|seems?)\s+(?:(?:clearly|indeed|therefore|thus|definitely|then|also|obviously)\s+)?"
)
_RIGHT: Final = re.compile(
    _IS + r"(?:the\s+)?(?:most\s+|only\s+|single\s+)?(?:correct|right|best|true|answer|valid|kept)\b"
    rf"|^\W*(?i:correct|right|true|yes)\W*$|[{_TICKS}]|\bfits\b(?! (?:poorly|badly))|\bworks\b"
)
_WRONG: Final = re.compile(
    rf"\b(?:is|are|was|were|can|must|does|do|would|could)\s*(?:not\b|n't\b)|\bcannot\b|\bfails\b|[{_CROSSES}]|^\W*(?i:not\b|(?:incorrect|wrong|false|no|eliminated|invalid)\W*$)"
    rf"|{_IS}(?:incorrect|wrong|false|out|ruled out|invalid|impossible|irrelevant|eliminated|unlikely|untrue|too \w+)\b"
)
_NONE: Final = re.compile(
    r"\b(?:none|neither) of (?:the |these |those |my )?(?!other)(?:\w+ )?(?:options|choices|answers|above|alternatives"
    r"|candidates|them|these|those)\b"
    r"[^.\n]{0,30}?\b(?:is|are|was|were|seems?|fits?|works?|match(?:es)?|appl(?:y|ies)|correct|right|holds?|looks?)\b"
    r"|\bno (?:correct|right|valid|suitable|matching) (?:option|choice|answer)s?\b|\bno (?:option|choice|answer"
    r"|listed option|given option)s? (?:\w+ )?(?:is|are|fits?|works?|match(?:es)?|given)\b"
    r"|\b(?:all|both|several|two|more than one|multiple) (?:of )?(?:the |these )?(?:options|choices|answers) (?:are|could|fit|seem)\b",
    re.IGNORECASE,
)
_REACH: Final = 80
"""Characters behind an option in which its judgement is looked for."""
_RULED_OUT: Final = re.compile(
    r"(?:[(\[]([A-Z])[)\]]|\b([A-Z])\b)(?:[):.]?\s[^\n.]{0,60}?)?\s*\b(?:is|are|can|must)(?:\s*not\b|n't\b"
    r"|\s+(?:incorrect|wrong|false|out|ruled out)\b)"
)
_SET_ASIDE: Final = re.compile(rf",?\s+(?:(?:and|but) )?{SETS_ASIDE}\b", re.IGNORECASE)
_NEGATIVE: Final = re.compile(r"\b(?:not|no|never|neither|nor|except|cannot)\b|n't\b", re.IGNORECASE)


def _folded(text: str) -> str:
    """A choice text normalised for comparison: no case, LaTeX, quotes, brackets around it, leading article or final full stop."""
    plain = " ".join(strip_latex(text).casefold().split()).strip(" .\"'`*$")
    if plain.startswith("(") and plain.endswith(")") and plain.count("(") == 1:
        plain = plain[1:-1].strip(" .\"'")
    return re.sub(r"^(?:an?|the) (?=\S)", "", plain)


def _letter(found: str | None, choices: Sequence[str]) -> str | None:
    known = min(len(choices), len(LETTERS)) or len(LETTERS)
    return found.upper() if found and LETTERS.index(found.upper()) < known else None


def _equal_to(text: str, choices: Sequence[str]) -> list[str]:
    """The letters of the choices whose number, and unit if both have one, is that of `text`."""
    value = numbers.boxed(text)[:1]
    if not value:
        return []
    unit = quantities.units(strip_latex(text))
    same = [
        (letter, quantities.units(strip_latex(choice)))
        for letter, choice in zip(LETTERS, choices, strict=False)
        if numbers.boxed(choice)[:1] == value
    ]
    exact = [letter for letter, theirs in same if theirs == unit]
    return exact or [letter for letter, theirs in same if not unit or not theirs]


def whole(text: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The letter of a text that consists of one choice only."""
    plain = strip_latex(text).strip().strip("*\"'`").rstrip(".")
    match = _LETTERED.fullmatch(plain)
    if match and (letter := _letter(match[1], choices)):
        return (letter,)
    lettered = list(zip(LETTERS, choices, strict=False))
    same = [letter for letter, choice in lettered if choice.strip().casefold() == text.strip().casefold()]
    same = same or [letter for letter, choice in lettered if _folded(choice) == _folded(text)]
    if same:
        return (same[0],)
    equal = _equal_to(plain, choices)
    return (equal[0],) if len(equal) == 1 else ()


def boxed(text: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The letter of a box: one choice only, otherwise what its words state without a doubt."""
    return whole(text, choices) or (() if HEDGE.search(text) else phrase(text, choices) or ())


def _named(text: str, choices: Sequence[str]) -> set[str]:
    """Letters of the choices whose text occurs in `text` as whole words; a match inside a longer matched choice is ignored."""
    within, found = _folded(text), set()
    texts = [(_folded(choice), letter) for letter, choice in zip(LETTERS, choices, strict=False)]
    for words, letter in sorted(texts, key=lambda item: -len(item[0])):
        signed = "(?<![-\u2212])" if words[:1].isdigit() else ""
        rest = re.sub(rf"{signed}(?<!\w)(?<!\d[.,]){re.escape(words)}(?![\w%])(?![.,]\d)", "|", within) if words else within
        if rest != within:
            within = rest
            found.add(letter)
    return found


def _mentions(text: str, choices: Sequence[str]) -> Iterator[tuple[re.Match[str], str]]:
    for match in _MENTION.finditer(text):
        if letter := _letter(match[1] or match[2] or match[3], choices):
            yield match, letter


def phrase(text: str, choices: Sequence[str]) -> tuple[str, ...] | None:
    """The letter that follows "the answer is"; empty if it names several choices or one that is not listed, `None` if it names none."""
    if found := whole(text, choices):
        return found
    text = strip_latex(text)
    first = _LEADING.match(text)
    if first and (letter := _letter(first[1] or first[2] or first[3], choices)):
        joint = _JOINT.match(text, first.end())
        other = joint and _LEADING.match(text, joint.end())
        return () if other and _letter(other[1] or other[2] or other[3], choices) != letter else (letter,)
    sentence = _SET_ASIDE.split(SENTENCE_END.split(text)[0])[0]
    found_here = _named(sentence, choices) or {letter for _, letter in _mentions(sentence, choices)}
    if found_here:
        return (found_here.pop(),) if len(found_here) == 1 else ()
    measure = _equal_to(re.split(r",\s|;|\s(?:because|since|as)\b", sentence)[0], choices)
    if len(measure) == 1:
        return (measure[0],)
    return () if _UNLISTED.match(text) or _NONE.search(sentence) else None


def _judged(text: str, choices: Sequence[str]) -> Iterator[tuple[str, bool, int, str]]:
    """Every judgement of an option: its letter, whether it is called right, where, and in which words."""
    place = 0
    for clause in _OPTION_BY_OPTION.split(text):
        begin = text.find(clause, place)
        place = begin + len(clause)
        mark = text[place : place + 2].strip()[:1]
        if not _ALONE.search(clause):
            continue
        claim = without_denied(clause)
        subjects = list(_SUBJECT.finditer(claim))
        for subject, following in zip_longest(subjects, subjects[1:]):
            said = claim[subject.end() : min(subject.end() + _REACH, following.start() if following else len(claim))]
            said = f"{said} {mark}" if mark and mark in _TICKS + _CROSSES and not following else said
            judgements = sorted(
                (found.start(), found.re is _RIGHT) for found in (_RIGHT.search(said), _WRONG.search(said)) if found
            )
            for letter in _BARE.finditer(subject[0]) if judgements else ():
                if known := _letter(letter[1] or letter[2], choices):
                    yield known, judgements[0][1], begin, claim


def verdicts(text: str, choices: Sequence[str]) -> list[Statement]:
    """What a text says about the options one by one, as at most one statement: the only option that it calls right, or none of them."""
    plain = re.sub(r"\$|\\mathrm|[{}]", "", text) if "$" in text else text
    found: dict[str, bool] = {}
    place, words = 0, ""
    for letter, is_right, begin, claim in _judged(plain, choices):
        found[letter] = is_right
        place, words = (begin, claim) if is_right else (place, words)
    right = [letter for letter, is_right in found.items() if is_right]
    place = min(place, len(text))
    statements = []
    if right:
        statements.append(Statement(place, place, right[0], committed=len(right) == 1 and not HEDGE.search(words)))
    elif len(found) == len(choices) - 1 >= 2:
        left = next(letter for letter, _ in zip(LETTERS, choices, strict=False) if letter not in found)
        statements.append(Statement(0, 0, left))
    for none in _NONE.finditer(text):
        named = list(_named(none[0], choices))
        statements.append(Statement(none.start(), none.end(), named[0] if len(named) == 1 else "", committed=len(named) == 1))
    return statements


def last(text: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The letter that the last sentence with a letter claims; otherwise the only choice that the last sentence names without negation."""
    text = strip_latex(strip_emphasis(text))
    plain = _RULED_OUT.sub("", text)
    for begin, end in sentences(plain):
        sentence = plain[begin:end].strip()
        if any(True for _ in _MENTION.finditer(sentence)):
            return _of_sentence(sentence, choices)
    sentence = without_denied(next((text[begin:end] for begin, end in sentences(text)), ""))
    named = _named(sentence, choices)
    return tuple(named) if len(named) == 1 and not _NEGATIVE.search(sentence) and not HEDGE.search(sentence) else ()


def _of_sentence(sentence: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The letter that a sentence claims last; empty for a hedge, a question, several letters, or one that is not listed."""
    if HEDGE.search(sentence) or sentence.endswith("?"):
        return ()
    sentence = without_denied(sentence)
    for match in _MENTION.finditer(sentence):
        joined = _JOINED_BEFORE.search(sentence, 0, match.start())
        if joined and _letter(joined[1], choices) not in (None, match[1] or match[2] or match[3]):
            return ()
    for clause in [*reversed(claims(sentence)), sentence]:
        if letters := [match[1] or match[2] or match[3] for match in _MENTION.finditer(clause)]:
            letter = _letter(letters[-1], choices)
            return (letter,) if letter and (len(set(letters)) == 1 or clause is not sentence) else ()
    return ()
