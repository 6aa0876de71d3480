"""What the browser shows of an evaluation question: the greedy answers of base, student and teacher, and how each was read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.text_digests import digest
from stages.report.browser.training_questions import said
from storage.artifact import Artifact

_COLUMNS: Final = ["model", "question_id", "outcome", "answer", "rule", "completion_tokens", "repetition", "text"]


def answered(evaluation: Artifact) -> Iterator[tuple[str, str]]:
    """(set, id) of every question that the student answered."""
    for batch in evaluation.batches("items", ["set", "question_id"]):
        yield from zip(batch["set"].to_pylist(), batch["question_id"].to_pylist(), strict=True)


def answer_parts(inputs: Mapping[str, Artifact], chosen: frozenset[int]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(id, model, its answer) of every chosen evaluation question and model."""
    for name in ("references", "evaluation"):
        for batch in inputs[name].batches("items", _COLUMNS, 1024):
            for row in batch.to_pylist():
                if digest(row["question_id"]) in chosen:
                    yield row["question_id"], row["model"], said(row)
