r"""Reads what a text claims about a number: in a box, after "the answer is", or in its last sentence with a number.

What a number looks like, and which value it has, is in `wording/numerals.py`; here the words around numbers decide which one is claimed. A
range, a bound, a time, a date, a choice between numbers and a measure of several parts (3 hours 20 minutes) are not a number. Neither is a
number followed by a factor that is not a unit (`5x`, `2\pi`, `2^{10}`). These give no answer instead of a part of one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pipeline.grading.wording.hedges import HEDGE
from pipeline.grading.wording.lookalikes import strip_emphasis
from pipeline.grading.wording.number_words import leading_number
from pipeline.grading.wording.numerals import CHUNK, CURRENCY, Readings, cleaned, of_chunk, spelled, whole
from pipeline.grading.wording.sentences import SENTENCE_END, claim, claimed, claims, sentences, without_denied

_TAIL: Final = 400
_ASSIGNED_TWICE: Final = re.compile(r"=[^=]*(?:\b(?:and|or)\b|[,;]\s)[^=]*[a-z]\w* ?=", re.IGNORECASE)
_ENUMERATOR: Final = re.compile(r"^[ \t]*\(?\d+[.)][ \t]+(?=\S)", re.MULTILINE)
_VARIABLE: Final = r"(?:[abcefijknopqrtuvwxyz]| [xyzn])\b"
_NO_NUMBER: Final = re.compile(
    rf"[\\^*×·÷√π!_<>≤≥|±²³]|\d{_VARIABLE}|\d\(|\d ?/ ?[a-z]\b|[a-z)] ?/ ?\d|\b[a-z] ?[-+] ?\d|\d ?[-+] ?(?:[a-z]\b|\()"
    r"|\b(?:times|plus|minus|dozen|squared|cubed)\b"
)
_FACTOR: Final = re.compile(
    rf"{_VARIABLE}|\(| ?(?:[\\^*×·÷√π!_+<>≤≥|±²³]|/ ?(?:[a-z]\b|\()|[-–] ?[\d(]|\d|[-+] ?[a-z]\b)"
    r"| ?(?:times|plus|minus|multiplied|divided|out of|dozen|squared|cubed|[ap]\.?m\b)| of \$?\d"
)
_AND_MORE: Final = re.compile(r"\b(?:and|or|to)\s+[-+]?[$£€¥₹]?\.?\d", re.IGNORECASE)
_SEVERAL: Final = re.compile(rf"\s*(?:[,;&/]|,?\s*\(?\b(?:and|or|to)\b)\s*\(?\$?[-+]?{CURRENCY}?\.?\d", re.IGNORECASE)
_UNIT: Final = (
    r"(?!(?:for|in|on|of|per|at|by|from|to|with|after|before|since|because|out|each|every|an?|the|is|are|was|when|if|as|that|which|who|while"
    r"|so|where|not|than|over|under|within|during|and|or|but|left|more)\b)[a-z\"'.]+"
)
_NEXT_PART: Final = re.compile(
    rf"\s*(?:{_UNIT}\s+){{0,1}}{_UNIT}\s*(?:,|&|,?\s*\band\b)?\s*{CURRENCY}?(?:\d|(?:\w+-)?(?:one|two|three|four|five|six|ten|twenty|thirty|forty|fifty)\b)",
    re.IGNORECASE,
)
_BOUND: Final = re.compile(
    r"^\W*(?:at (?:least|most)|(?:more|less|fewer|greater) than|over|under|above|below|up to|no (?:more|less|fewer) than)\b",
    re.IGNORECASE,
)
_OR_MORE: Final = re.compile(r"[^.,;\d]{0,20}\bor (?:more|less|fewer|above|below|higher|lower|greater|so)\b", re.IGNORECASE)
_OR_MORE_THAN: Final = re.compile(rf"^[^=]*\d{_OR_MORE.pattern}[^=]*$", re.IGNORECASE)
_ONLY_BOUND: Final = re.compile(rf"{_BOUND.pattern}\s+{CURRENCY}?[\d.,]+\W*(?:[a-z]+\W*){{0,2}}\Z", re.IGNORECASE)
_CLAUSE: Final = re.compile(r"[;(]|,(?!\d)|\s(?:because|since|which|where|so|if|when|after)\b", re.IGNORECASE)
_LEAD: Final = re.compile(
    r"(?:[:=≈~\s]|\$(?=\D)|(?:that|a total of|about|approximately|roughly|around|exactly|only|just|equal to|then"
    r"|therefore|thus|simply|indeed"
    r"|clearly|definitely|equals|now)\b)+",
    re.IGNORECASE,
)
_VERB: Final = re.compile(
    r"\b(?:is|are|was|were|be|equals?|makes?|made|gives?|leaves?|yields?|totals?|has|have|had|gets?|got|costs?|needs?|earns?|pays?|paid|takes?"
    r"|took|weighs?|spends?|spent|sells?|sold|lost|ran|ate|(?:would|will|can|could|must|should) (?!be\b)\w+)\b",
    re.IGNORECASE,
)
_GIVEN: Final = re.compile(
    r"\b(?:the|these|those|all|other|his|her|their|its|our|my|first|last|remaining|step|day|week|case) $", re.IGNORECASE
)
_COMPARED: Final = re.compile(r"\bthan (?:the |only )?$", re.IGNORECASE)
_FRAMES: Final = re.compile(
    r"\s(?:(?:after|in|over|for|per|within|during|every|on|by|at|out of|of|from|between|among|each of|to) (?:the "
    r"|these |those |all |its |his |her |their |page |day |level |step )"
    r"|(?:after|in|over|for|per|within|during|every|on|by|of|at) (?:day \d|(?:the )?\d+(?:st|nd|rd|th)\b"
    r"|\d[\d.,]* (?:more )?(?:second|minute|hour|day|night|week|month|year|trip|people|person|child|kid|student"
    r"|friend)\w*))",
    re.IGNORECASE,
)
_CALCULATED: Final = re.compile(
    r"\b(?:half|twice|thrice|double|triple|(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s?|per ?cent|sum|product"
    r"|difference|quotient|square(?: root)?|cube(?: root)?)\s+(?:of\s+|as (?:much|many) as\s+|the\s+)?$",
    re.IGNORECASE,
)
"""What stands before a number of which something is taken: "half of 10" is not 10, and nothing is calculated."""
_UNREAL: Final = re.compile(r"\bif\b[^.]*\b(?:were|had|would)\b|\bif\b[^.]*'d\b", re.IGNORECASE)
_REASON: Final = re.compile(r"\b(?:because|since)\b(?=(?:(?!, | so )[^=])*\Z)", re.IGNORECASE)
_OR: Final = re.compile(r"[^,;]{0,12}\b(?:or|and)\s*\Z", re.IGNORECASE)


def _led(text: str) -> str:
    """`text` without the words that introduce a number."""
    lead = _LEAD.match(text)
    return text[lead.end() :] if lead else text


def boxed(text: str) -> Readings:
    """Readings of a box: a number, a number with its unit, or the only number among words (x=5, about 18 dollars)."""
    if found := whole(text):
        return found
    plain = cleaned(text)
    if HEDGE.search(plain) or _ASSIGNED_TWICE.search(plain):
        return ()
    for part in (_led(re.split(r"[=≈]", plain)[-1]), plain):
        if found := whole(part):
            return found
        chunks = list(CHUNK.finditer(part))
        if len(chunks) == 1 and not _NO_NUMBER.search(part) and not leading_number(part[chunks[0].end() :].partition("and")[2]):
            return of_chunk(part, chunks[0])
    return spelled(plain)


def phrase(text: str) -> Readings | None:
    """Readings of the text after "the answer is"; empty if it is not exactly one number, `None` if it contains no number."""
    sentence = SENTENCE_END.split(_led(cleaned(text)), maxsplit=1)[0]
    clause = _led(re.split(r"[=≈]", _CLAUSE.split(sentence, maxsplit=1)[0])[-1]).strip()
    if (
        _ASSIGNED_TWICE.search(sentence)
        or _BOUND.match(clause)
        or any(_CALCULATED.search(clause, 0, chunk.start()) for chunk in CHUNK.finditer(clause))
    ):
        return ()
    behind = sentence[max(0, sentence.rfind(clause)) :]
    if chunk := CHUNK.match(clause):
        several = (
            _FACTOR.match(clause, chunk.end())
            or _AND_MORE.search(clause, chunk.end())
            or _NEXT_PART.match(behind, chunk.end())
            or _SEVERAL.match(behind, chunk.end())
            or _OR_MORE.match(behind, chunk.end())
        )
        return () if several else of_chunk(clause, chunk)
    if found := whole(clause) or spelled(clause):
        return found
    if re.match(r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten)\b(?! of)", clause, re.IGNORECASE):
        return ()
    for part in (clause, sentence):
        if chunks := list(CHUNK.finditer(part)):
            return () if _AND_MORE.search(clause) else of_chunk(part, chunks[-1])
    return None


def has_next_part(text: str) -> bool:
    """Whether a text that follows a number goes on with the next part of one measure: "h 45", "red, 3 blue"."""
    return bool(_NEXT_PART.match(text.replace("$", "")))


def _among(clause: str, chunks: Sequence[re.Match[str]]) -> Readings:
    """The number that several chunks of a clause agree on; empty if they do not."""
    found = [of_chunk(clause, chunk) for chunk in chunks]
    if not all(found):
        return ()
    best = max(found, key=len)
    return best if all(set(one) <= set(best) or one[0] == best[0] for one in found) else ()


def _of_clause(clause: str) -> Readings | None:
    """The number that a clause claims; empty if it cannot be told which, `None` if there is none.

    That is the only one behind the verb that is neither given ("the 3 friends") nor part of a frame ("in 7 days").
    """
    clause = claimed(clause, CHUNK)
    mentioned = list(CHUNK.finditer(clause))
    every = [
        chunk
        for chunk in mentioned
        if not (_COMPARED.search(clause, 0, chunk.start()) or _CALCULATED.search(clause, 0, chunk.start()))
    ]
    verbs = [verb.end() for verb in _VERB.finditer(clause)]
    for options in (
        [chunk for chunk in every if not _GIVEN.search(clause, 0, chunk.start())],
        every,
    ):
        behind = [chunk for chunk in options if verbs and chunk.start() >= verbs[0]] or options
        frame = _FRAMES.search(clause, behind[0].end()) if behind else None
        behind = [chunk for chunk in behind if not frame or chunk.start() < frame.start()]
        if behind:
            return _among(clause, behind)
    return () if mentioned else None


def _of_equation(sentence: str) -> Readings | None:
    """The number behind the last equals sign of a sentence, or of a clause behind it; `None` without an equation.

    An equation that only explains ("because 80 / 8 = 10") gives way to the number before it.
    """
    equals = max(sentence.rfind("="), sentence.rfind("≈"))
    chunk = CHUNK.search(sentence, equals) if equals >= 0 else None
    if chunk is None:
        return None
    if (reason := _REASON.search(sentence[:equals])) and (found := _of_clause(sentence[: reason.start()])):
        return found
    for clause in reversed(claims(f"it{sentence[chunk.end() :]}")[1:]):
        if (found := _of_clause(clause)) is not None:
            return found
    follower = CHUNK.search(sentence, chunk.end())
    joined = follower and _OR.fullmatch(sentence, chunk.end(), follower.start())
    return _among(sentence, [chunk, follower]) if joined and follower else of_chunk(sentence, chunk)


def _of_sentence(sentence: str) -> Readings | None:
    """The number that a sentence claims: that of its equation, otherwise of its last clause that has one, otherwise its only number."""
    if (found := _of_equation(claim(sentence))) is not None:
        return found
    for clause in reversed(claims(sentence)):
        if (found := _of_clause(clause)) is not None:
            return found
    return () if _UNREAL.search(sentence) else _of_clause(without_denied(sentence))


def last(text: str) -> Readings:
    """Readings of the number that the last sentence with a number claims.

    List numbers at line starts are ignored. Empty if that number is a range, a time or one of several, or if the sentence only guesses.
    """
    for part in (text[-_TAIL:], text):
        plain = _ENUMERATOR.sub("", cleaned(strip_emphasis(part)))
        spans = list(sentences(plain))
        for begin, end in spans:
            if begin == 0 and part != text:  # the sentence may have been cut
                break
            sentence = plain[begin:end].strip()
            if (found := _of_sentence(sentence)) is not None:
                bound = _ONLY_BOUND.search(sentence) or any(map(_OR_MORE_THAN.search, claims(sentence)))
                unsure = bound or HEDGE.search(sentence) or sentence.endswith("?")
                return () if unsure else found
    return ()
