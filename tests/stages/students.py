"""Evaluations as they would be if a student answered as a test wants, committed as the stage commits them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from stages.chain import Planned
from stages.comparison import COUNTED, summarise
from stages.evaluation import SCHEMA
from storage.artifact import Artifact
from storage.store import Store

Item = tuple[str, str, str]
"""Group, set and question."""


def asked(questions: Artifact) -> list[Item]:
    """Everything that a questions artifact has for evaluation."""
    rows = questions.table("questions", ["role", "set", "id", "use"]).to_pylist()
    return [(row["role"], row["set"], row["id"]) for row in rows if row["use"] == "test"]


def grade(store: Store, planned: Planned, items: Iterable[Item], right: Callable[[Item], bool]) -> Artifact:
    """An evaluation in which base and teacher are always wrong and the student is right where `right` says so."""
    every = list(items)
    rows = [_row(model, item, model == "student" and right(item)) for model in ("base", "teacher", "student") for item in every]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    summary = summarise([table.select(COUNTED)], ("base", "teacher", "student"), 200, 0)
    with store.draft("evaluation", planned.fingerprint) as draft:
        draft.write_shard("items", table)
        return store.commit(
            draft,
            {
                "identity": planned.identity,
                "inputs": planned.inputs,
                "config": planned.config.model_dump(mode="json"),
                "summary": {**summary, "tokens_per_second": 1.0},
                "timing": {"started": "2026-01-01T00:00:00+00:00"},
                "peak_mib": 1,
                "provenance": {},
            },
        )


def _row(model: str, item: Item, right: bool) -> dict[str, Any]:
    place = dict(zip(("group", "set", "question_id"), item, strict=True))
    texts = dict.fromkeys(("answer", "gold", "rule", "finish_reason", "text"), "")
    numbers = {"prompt_tokens": 1, "completion_tokens": 1, "cumulative_logprob": 0.0}
    return {"model": model, **place, "outcome": "correct" if right else "wrong", **texts, **numbers}
