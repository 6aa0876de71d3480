"""Stage summaries for tests that set only the fields they need; all other fields are empty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.core.summaries import Summary

_ACCURACY = {"items": 1, "accuracy": 0.0, "low": 0.0, "high": 1.0, "correct": 0, "wrong": 1, "unparsed": 0, "truncated": 0}
_ANSWERS: dict[str, Any] = {"accuracy": {}, "sets": [], "tokens": 0, "looping": {}}
_EMPTY: dict[str, dict[str, Any]] = {
    "questions": {
        "train": 0, "evaluation": {}, "left_out_because_evaluated": 0, "left_out_because_of_a_passage": {},
        "left_out_because_long": {}, "repeats": {}, "trained_despite_evaluation_only": [],
    },
    "references": {**_ANSWERS, "asked": ""},
    "evaluation": {**_ANSWERS, "student_against_base": {}, "forgetting": {}},
    "sampling": {"questions": 0, "samples": 0, "right": 0, "tokens": 0, "tokens_right": 0, "outcomes": {}, "coverage": {}, "looping": {}},
    "synthesis": {
        **dict.fromkeys((
            "questions", "near_duplicates", "too_few_perspectives", "easy_left_out", "over_max_questions", "against_majority",
            "wrong_form", "too_long", "kept_questions", "kept_rationales", "tokens_kept", "mean_pass_rate",
        ), 0),
        "warm_up_losses": [], "base_loss": {}, "kept": {},
    },
    "training": {
        **dict.fromkeys((
            "steps", "tokens_trained", "tokens_passed", "tokens_probed", "tokens_per_second", "last_loss", "mean_kept",
            "mean_effective_number", "widened", "zero_stage",
        ), 0),
        "ranks": 1, "inertia": "none",
    },
    "report": {"page": "report.html", "ledger": {}, "findings": [], "teaching": {}},
}  # fmt: skip


def accuracy(**fields: Any) -> dict[str, Any]:
    """An accuracy record with the given fields."""
    return {**_ACCURACY, **fields}


def complete(stage: str, summary: Summary | Mapping[str, Any]) -> dict[str, Any]:
    """The stored form of a stage's summary; missing fields are filled in as empty, and no answer loops."""
    if isinstance(summary, Summary):
        return summary.stored()
    loops = {model: dict.fromkeys(places, 0) for model, places in summary.get("accuracy", {}).items()}
    return {**_EMPTY.get(stage, {}), **({"looping": loops} if loops else {}), **summary}
