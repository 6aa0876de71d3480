"""Chooses the length of TRL's packed lines. Lines of the longest row's length would hold one row each, since two rows rarely fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

_ROWS: Final = 6
"""Approximate number of rows per line."""


class Lines(NamedTuple):
    """Maximum tokens of a line, and the number of lines that hold a step's rows."""

    length: int
    a_step: int


def lines_of(lengths: Sequence[int], rows_a_step: int) -> Lines:
    """Lines for rows of these lengths, over all steps; with one row of spare room, best-fit packing never needs more lines."""
    a_step = max(1, round(rows_a_step / _ROWS))
    steps = max(1, len(lengths) // rows_a_step)
    return Lines(math.ceil(sum(lengths) / (steps * a_step)) + max(lengths), a_step)
