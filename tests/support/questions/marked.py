"""Questions as the questions stage writes them, and the summary of a stage that left nothing out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.questions.question import Question
from stages.questions import stage as questions

NOTHING: dict[str, Any] = {
    "left_out_because_evaluated": 0,
    "left_out_because_long": {},
    "left_out_because_of_a_passage": {},
    "repeats": {},
    "trained_despite_evaluation_only": [],
}
"""What a summary says where there is nothing to say."""


def marked(items: list[Question]) -> pa.Table:
    """Questions as the stage writes those for training."""
    return questions._table([questions._Tagged(item, "train", "train", "train") for item in items])
