"""Chooses the questions that the browser shows: all of them up to a number, beyond it those with the smallest digests of their ids.

The choice depends on the ids alone, so it is the same on every machine and for every order of the shards.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final, NamedTuple

from pipeline.text_digests import digest

MOST: Final = 5000
"""Training questions shown, and evaluation questions shown, the latter spread evenly over their sets. Nobody reads more one by one, and
the pages of more would be hundreds of megabytes.
"""
LONGEST: Final = 8000
"""Characters shown of one text. A longer one loses its middle: its start says how it reasons, its end what it concludes."""
_START: Final = 6000


class Choice(NamedTuple):
    """Digests of the chosen questions' ids, and the number of questions that there are, by set."""

    chosen: dict[str, frozenset[int]]
    there: dict[str, int]

    @property
    def every(self) -> frozenset[int]:
        return frozenset().union(*self.chosen.values())


def choose(questions: Iterable[tuple[str, str]], most: int) -> Choice:
    """Choose among (set, question id), `most` over all sets together. Every set has the same largest number, at least one."""
    smallest: dict[str, list[int]] = {}
    there: dict[str, int] = {}
    for name, question_id in questions:
        mine = smallest.setdefault(name, [])
        mine.append(digest(question_id))
        there[name] = there.get(name, 0) + 1
        if len(mine) > 2 * most:
            mine[:] = heapq.nsmallest(most, mine)
    share = max(1, most // max(1, len(smallest)))
    return Choice({name: frozenset(heapq.nsmallest(share, mine)) for name, mine in smallest.items()}, there)


def clipped(text: str) -> str:
    """A text with at most about `LONGEST` characters; what is left out is counted in its place."""
    if len(text) <= LONGEST:
        return text
    left_out = len(text) - LONGEST
    return f"{text[:_START]}\n[… {left_out:,} characters are not shown …]\n{text[len(text) - (LONGEST - _START) :]}"
