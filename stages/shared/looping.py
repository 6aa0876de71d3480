"""Counts answers that were cut off in a loop, by model and by group or set; the other truncated ones were still at work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.generation.repetition import LOOPING
from pipeline.grading.grade import Outcome

COLUMNS: Final = ["model", "group", "set", "outcome", "repetition"]


def is_looping(table: pa.Table | pa.RecordBatch) -> pa.BooleanArray:
    """Which rows are texts that did not end and repeat themselves, from `outcome` and `repetition`."""
    repeats = pc.greater(table["repetition"], pa.scalar(LOOPING, table["repetition"].type))
    return pc.and_(pc.equal(table["outcome"], Outcome.TRUNCATED.value), pc.fill_null(repeats, False))


def looping(tables: Iterable[pa.Table | pa.RecordBatch]) -> dict[str, dict[str, int]]:
    """Model -> group or set -> number of looping answers, for every model, group and set in tables with `COLUMNS`."""
    counts: dict[str, Counter[str]] = {}
    for table in tables:
        found = zip(
            *(table[name].to_pylist() for name in ("model", "group", "set")), is_looping(table).to_pylist(), strict=True
        )
        for model, group, name, loops in found:
            counts.setdefault(model, Counter()).update({f"group:{group}": int(loops), f"set:{name}": int(loops)})
    return {model: dict(places) for model, places in counts.items()}
