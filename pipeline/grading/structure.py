r"""The structure of a mathematical answer: a list, a bracketed group, a set, a union, or one expression.

Lists and sets are compared without order, points and intervals with it, each item for itself. So math-verify only decides about single
expressions, and about pairs of different structure such as `x<2` and `(-\infty,2)`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_OPENERS: Final = "([{"
_CLOSERS: Final = ")]}"
_LIST_SEPARATOR: Final = re.compile(
    r"(?:, |;)\s*(?:(?:\\text\{ ?(?:and|or) ?\}|(?:and|or)(?![A-Za-z]))\s*)?|\s*(?:\\text\{ ?,? ?(?:and|or) ?\}"
    r"|(?<![A-Za-z])(?:and|or)(?![A-Za-z]))\s*"
)
_ITEM_SEPARATOR: Final = re.compile(r"[,;]\s*")
_UNION: Final = re.compile(r"\\cup\s*")


class Structure(NamedTuple):
    """A kind ("list", "set", "union", or the two brackets of a group) with its items; a single expression has no items."""

    kind: str
    items: tuple[str, ...]


def _split(form: str, separator: re.Pattern[str]) -> list[str]:
    """The pieces of a form between separators outside all brackets."""
    pieces, depth, begin, place = [], 0, 0, 0
    while place < len(form):
        if depth == 0 and (match := separator.match(form, place)) and match[0]:
            pieces.append(form[begin:place])
            begin = place = match.end()
            continue
        depth += (form[place] in _OPENERS) - (form[place] in _CLOSERS)
        place += 1
    return [piece.strip() for piece in [*pieces, form[begin:]]]


def structure(form: str) -> Structure:
    """The outermost structure of a normal form."""
    items = _split(form, _LIST_SEPARATOR)
    if len(items) > 1:
        return Structure("list", tuple(filter(None, items)))
    if len(members := _split(form, _UNION)) > 1:
        return Structure("union", tuple(members))
    is_set = form.startswith("\\{") and form.endswith("\\}")
    inner = form[2:-2] if is_set else form[1:-1]
    if is_set or (form[:1] in ("(", "[") and form[-1:] in (")", "]") and _closes_at_end(form)):
        items = _split(inner, _ITEM_SEPARATOR)
        if is_set or len(items) > 1:
            return Structure("set" if is_set else form[0] + form[-1], tuple(filter(None, items)))
    return Structure("", ())


def _closes_at_end(form: str) -> bool:
    depth = 0
    for place, sign in enumerate(form):
        depth += (sign in _OPENERS) - (sign in _CLOSERS)
        if depth == 0:
            return place == len(form) - 1
    return False
