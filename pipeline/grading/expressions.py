r"""Reads and compares mathematical answers: \frac{1}{2}, (3, \pi/2), x^2+1, intervals, sets, lists, matrices, 12 h 45, \text{even}.

Every answer has a cheap normal form of its text. Equal forms are equal answers. Otherwise the comparison goes down in steps: the items of
lists and groups (`structure.py`), numbers, numerals with a base and ratios (here), numbers with units and words (`quantities.py`); only
what remains goes to math-verify, in separate processes (`symbolic.py`). Numbers must be exact or correct to six decimal places, since an
expression was asked for: 0.333 is not 1/3. A percent sign, a base, a unit or the name of the unknown may be missing on one side.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from pipeline.grading import numbers, quantities, symbolic
from pipeline.grading.rounding import equal_up_to_rounding
from pipeline.grading.structure import Structure, structure
from pipeline.grading.wording import numerals
from pipeline.grading.wording.hedges import HEDGE
from pipeline.grading.wording.latex import balanced, normal
from pipeline.grading.wording.sentences import SENTENCE_END, sentences

_LONGEST: Final = 1000
_FEWEST_PLACES: Final = 6
_TAIL: Final = 2000
_MATHS: Final = re.compile(
    r"\$\$(.+?)\$\$|(?<!\\)\$(?=\S)([^$\n]*?[^\s$\\])\$(?!\d)|(?<!\\)\$ ([^$\n]+) \$(?! ?\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]",
    re.DOTALL,
)
"""Mathematics between delimiters. A dollar sign that a space precedes or a digit follows closes nothing: it is money."""
_JOINS: Final = re.compile(r"\s*(?:,|;|,?\s*\b(?:and|or)\b)\s*", re.IGNORECASE)
_ASSIGNED: Final = re.compile(r"([a-zA-Z](?:\([a-z]\))?=)([^=]+)")
_TUPLE_ASSIGNED: Final = re.compile(r"\([a-zA-Z](?:,[a-zA-Z])+\)=([(\[].+)")
_CALCULATED: Final = re.compile(r"(?:([a-zA-Z])=)?(?:[^=a-zA-Z\\]*\d[^=a-zA-Z\\]*=)+([^=a-zA-Z\\]+)")
_NUMBER: Final = re.compile(r"([a-zA-Z](?:\([a-z]\))?=)?(-?\d+(?:/\d+)?)(%?)")
_NUMERAL: Final = re.compile(r"(-?\d[\dA-F]*)(?:_\{?(\d+)\}?)?")
_RATIO: Final = re.compile(r"\d+(?:\.\d+)?(?::\d+(?:\.\d+)?)+")
_WORDS: Final = re.compile(r"[A-Za-z][A-Za-z' -]+")
_LETTER: Final = re.compile(r"\(([A-Z])\)")
_REPEATING: Final = re.compile(r"(-?)(\d*)\.(\d*)\\overline\{(\d+)\}")
_TWO_EXPONENTS: Final = re.compile(r"\^(?:\{[^{}]*\}|\w)\^")
_RELATION: Final = re.compile(r"[<>]|\\(?:le|ge|lt|gt|neq?|in|pm|mp|leq|geq|cup|cap|mathbb|infty)(?![a-z])")
_MEASURED: Final = re.compile(r"[-$]?\d[\d.,]*(?:\s*/\s*\d+)? ?[A-Za-z.]+(?: [A-Za-z.]+)?(?:\^?\{?\d\}?)?\.?")


def _repeating(form: str) -> str | None:
    r"""0.1\overline{6} as a fraction, because math-verify reads it as 0.1."""
    match = _REPEATING.fullmatch(form)
    if not match:
        return None
    sign, integer, start, period = match.groups()
    head = int(integer + start or "0")
    value = Fraction(int(f"{head}{period}") - head, (10 ** len(period) - 1) * 10 ** len(start))
    return str(-value if sign else value)


def _number(readings: tuple[str, ...], text: str) -> str:
    """The normal form of a number; a percentage keeps its sign, since the other side may lack it."""
    return f"{readings[-1]}%" if "%" in text or "percent" in text else readings[0]


def whole(text: str) -> tuple[str, ...]:
    """The normal form of one answer; empty if the text is empty, unbalanced or too long, or if it only guesses."""
    form = normal(text)
    if not form or len(form) > _LONGEST or not balanced(form) or form.endswith("\\") or _TWO_EXPONENTS.search(form):
        return ()
    if calculated := _CALCULATED.fullmatch(form):
        form = f"{calculated[1]}={calculated[2]}" if calculated[1] else calculated[2]
    assigned = _ASSIGNED.fullmatch(form)
    value = assigned[2] if assigned else form
    if not quantities.has_unit(value) and (found := numerals.whole(value)):
        return ((assigned[1] if assigned else "") + _number(found, form),)
    if letter := _LETTER.fullmatch(form):
        return (letter[1],)
    return (_repeating(form) or (form.casefold() if _WORDS.fullmatch(form) and len(form) > 3 else form),)


def boxed(text: str) -> tuple[str, ...]:
    """The normal form of a box that does not only guess."""
    return () if HEDGE.search(text) else whole(text)


def _run(text: str, first: re.Match[str]) -> tuple[str, int]:
    """The expressions from `first` on that a comma, "and" or "or" joins, as one list, with the position behind it."""
    found, end = [next(filter(None, first.groups()))], first.end()
    while joined := _JOINS.match(text, end):
        following = _MATHS.match(text, joined.end())
        if following is None:
            break
        found.append(next(filter(None, following.groups())))
        end = following.end()
    return ", ".join(found), end


def phrase(text: str) -> tuple[str, ...] | None:
    """The answer that follows "the answer is": the first expressions between dollars, or a number with its unit, or the sentence."""
    sentence = SENTENCE_END.split(text, maxsplit=1)[0]
    if maths := _MATHS.search(text):
        run, end = _run(text, maths)
        if maths.start() < len(sentence) and numbers.has_next_part(text[end:]):
            return whole(sentence.replace("$", "")) or None
        return whole(run) or None
    found = numbers.boxed(sentence)
    if found and not _MEASURED.fullmatch(sentence.strip()):
        return (_number(found, sentence),)
    return whole(sentence) or None


def last(text: str) -> tuple[str, ...]:
    """The last expressions between dollars, otherwise the number that the text claims last."""
    tail = text[-_TAIL:]
    maths = list(_MATHS.finditer(tail))
    if not maths:
        return numbers.last(text)[:1]
    begin, _ = next((span for span in sentences(tail) if span[0] <= maths[-1].start()), (0, 0))
    if HEDGE.search(tail, begin):
        return ()
    start = len(maths) - 1
    while start and _JOINS.fullmatch(tail, maths[start - 1].end(), maths[start].start()) and maths[start - 1].start() >= begin:
        start -= 1
    return whole(_run(tail, maths[start])[0])


def _same_number(mine: re.Match[str], theirs: re.Match[str]) -> bool:
    """Whether two matches of `_NUMBER` are the same number; an assignment or percent sign may be missing on one side."""
    if mine[1] and theirs[1] and mine[1] != theirs[1]:
        return False
    value, other = mine[2], theirs[2]
    pairs = [(value, other)]
    if mine[3] != theirs[3]:
        pairs.append((str(Fraction(value) / 100), other) if mine[3] else (value, str(Fraction(other) / 100)))
    return any(equal_up_to_rounding(one, another, _FEWEST_PLACES) for one, another in pairs)


def _same_items(mine: tuple[str, ...], theirs: tuple[str, ...], ordered: bool) -> bool | None:
    """Whether two sequences of items are equal, in order or in any order."""
    if len(mine) != len(theirs):
        return False
    if ordered:
        found = [same(one, other) for one, other in zip(mine, theirs, strict=True)]
        return None if None in found and False not in found else all(found)
    rest = list(theirs)
    for one in mine:
        decided = [same(one, other) for other in rest]
        if True not in decided:
            return None if None in decided else False
        rest.pop(decided.index(True))
    return True


def _same_structure(answer: str, gold: str, mine: Structure, theirs: Structure) -> bool | None:
    """Whether two answers of which at least one has items are equal."""
    unordered = ("list", "set")
    if mine.kind == theirs.kind or (mine.kind in unordered and theirs.kind in unordered):
        return _same_items(mine.items, theirs.items, mine.kind not in ("list", "set", "union"))
    if mine.kind and theirs.kind and "union" not in (mine.kind, theirs.kind):
        return symbolic.equal(answer, gold) if _RELATION.search(answer + gold) and "list" in (mine.kind, theirs.kind) else False
    single = gold if mine.kind else answer
    if tuple_assigned := _TUPLE_ASSIGNED.fullmatch(single):
        return same(answer, tuple_assigned[1]) if mine.kind else same(tuple_assigned[1], gold)
    return symbolic.equal(answer, gold) if _RELATION.search(answer + gold) or "{" in single or "matrix" in single else False


def same(answer: str, gold: str) -> bool | None:
    """Whether two normal forms are the same answer; `None` if math-verify exceeded its limits."""
    if answer == gold:
        return True
    mine, theirs = structure(answer), structure(gold)
    if mine.items or theirs.items:
        return _same_structure(answer, gold, mine, theirs)
    numbers_ = _NUMBER.fullmatch(answer), _NUMBER.fullmatch(gold)
    if numbers_[0] and numbers_[1]:
        return _same_number(numbers_[0], numbers_[1])
    numerals = _NUMERAL.fullmatch(answer), _NUMERAL.fullmatch(gold)
    if numerals[0] and numerals[1] and (numerals[0][2] or numerals[1][2]):
        return numerals[0][1] == numerals[1][1] and None in (numerals[0][2], numerals[1][2])
    if _RATIO.fullmatch(answer) or _RATIO.fullmatch(gold):
        return _same_ratio(answer, gold)
    if quantities.is_worded(answer) or quantities.is_worded(gold):
        return _same_quantity(answer, gold)
    return symbolic.equal(answer, gold)


def _same_ratio(answer: str, gold: str) -> bool:
    """Whether two ratios are equal; a ratio of two numbers may be written as a fraction, but not as a whole number."""
    sides = [
        form.split(":") if ":" in form else re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", form).split("/")
        for form in (answer, gold)
    ]
    if len(sides[0]) != len(sides[1]) or len(sides[0]) < 2:
        return False
    try:
        mine, theirs = ([Fraction(term) for term in side] for side in sides)
    except ValueError:
        return False
    return all(one * theirs[0] == other * mine[0] for one, other in zip(mine, theirs, strict=True))


def _same_quantity(answer: str, gold: str) -> bool | None:
    """Whether two answers are equal of which at least one has words or units."""
    if (decided := quantities.same(answer, gold)) is not None:
        return decided
    (mine, my_unit), (theirs, their_unit) = quantities.without_unit(answer), quantities.without_unit(gold)
    if (mine, theirs) == (answer, gold) or (my_unit and their_unit and my_unit != their_unit):
        return False
    return False if quantities.is_worded(mine) or quantities.is_worded(theirs) else same(mine, theirs)
