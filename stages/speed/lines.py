"""Chooses the length of TRL's packed lines. Lines of the longest row's length would hold one row each, since two rows rarely fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

_ROWS: Final = 6
"""In a line, about."""


class Lines(NamedTuple):
    """Tokens of a line at most, and the lines that hold what a step of padded rows holds."""

    length: int
    a_step: int


def lines_of(lengths: Sequence[int], rows_a_step: int) -> Lines:
    """For rows of these lengths, of all steps; with one row's room to spare best fit never needs more lines."""
    a_step = max(1, round(rows_a_step / _ROWS))
    steps = max(1, len(lengths) // rows_a_step)
    return Lines(math.ceil(sum(lengths) / (steps * a_step)) + max(lengths), a_step)
