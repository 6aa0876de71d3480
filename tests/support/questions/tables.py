"""Tables in the format of the questions stage, and the summary fields of a stage that left nothing out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.questions.question import Question
from stages.questions import stage as questions

NOTHING_LEFT_OUT: dict[str, Any] = {
    "left_out_because_evaluated": 0,
    "left_out_because_long": {},
    "left_out_because_of_a_passage": {},
    "repeats": {},
    "trained_despite_evaluation_only": [],
}
"""Summary fields if no question is left out or repeated."""


def training_table(items: list[Question]) -> pa.Table:
    """Training questions in the table format of the questions stage."""
    return questions._table([questions._Tagged(item, "train", "train", "train") for item in items])
