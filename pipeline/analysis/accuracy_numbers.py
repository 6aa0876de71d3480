"""Accuracies and paired changes as data: what evaluation measures, and what reports, promotion and plots read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict


class Accuracy(BaseModel):
    """Greedy accuracy of one model on one group or set, with its 95 % Wilson interval and the number of answers per outcome."""

    model_config = ConfigDict(frozen=True)

    items: int
    accuracy: float
    low: float
    high: float
    correct: int
    wrong: int
    unparsed: int
    truncated: int


class PairedChange(BaseModel):
    """Change of accuracy between two models on identical items: Bonett and Price's 95 % interval, and p of McNemar's exact test."""

    model_config = ConfigDict(frozen=True)

    change: float
    low: float
    high: float
    p: float

    @property
    def is_certain(self) -> bool:
        """Whether the models differ beyond chance: only if interval and test both say so, which on few changed items they may not."""
        return (self.low > 0 or self.high < 0) and self.p < 0.05


class Measurement(BaseModel):
    """Accuracies by another measure than the zero-shot greedy answers: by model and by group or set. The rest is the student's alone."""

    model_config = ConfigDict(frozen=True)

    accuracy: dict[str, dict[str, Accuracy]]
    student_against_base: dict[str, PairedChange] = {}
    forgetting: dict[str, float] = {}
    """Base accuracy minus student accuracy, by out-of-distribution set."""


class SampledAccuracy(BaseModel):
    """Accuracy of several sampled answers to each item; see `stages/shared/draws.py`."""

    model_config = ConfigDict(frozen=True)

    items: int
    pass_at_1: float
    low: float
    high: float
    spread: float
    pass_at_all: float
    majority: float
    majority_low: float
    majority_high: float


ALL_SETS: Final = "all"
"""The name of all dev sets together."""


def dev_accuracies(rows: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Accuracies by step from the rows of `stages/training/dev_scores.py`: of each set, and of all sets together."""
    by_step: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(row)
    return {
        step: {
            **{str(row["set"]): float(row["correct"] / row["items"]) for row in of_step},
            ALL_SETS: float(sum(row["correct"] for row in of_step) / sum(row["items"] for row in of_step)),
        }
        for step, of_step in by_step.items()
    }
