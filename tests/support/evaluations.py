"""Commits evaluations in which the student is correct exactly where a test wants it to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from stages.core.plan import StagePlan
from stages.core.summaries import EvaluationSummary, ReferencesSummary, Summary
from stages.shared import answering
from stages.shared.compare_accuracy import COUNTED, accuracies, summarise
from stages.shared.draws import DRAWS_COUNTED, compare_draws
from storage.artifact import Artifact
from storage.store import Store

_SUMMARIES: dict[str, type[Summary]] = {"references": ReferencesSummary, "evaluation": EvaluationSummary}
Item = tuple[str, str, str]
"""Group, set and question."""


def evaluation_items(questions: Artifact) -> list[Item]:
    """All evaluation items of a questions artifact."""
    rows = questions.table("questions", ["role", "set", "id", "use"]).to_pylist()
    return [(row["role"], row["set"], row["id"]) for row in rows if row["use"] == "test"]


def commit_evaluation(store: Store, planned: Mapping[str, StagePlan], right: Callable[[Item], bool]) -> Artifact:
    """An evaluation in which base and teacher are always wrong and the student is correct where `right` says so.

    Sampled answers, if the run has them, are right the other way round.
    """
    items = evaluation_items(store.open("questions", planned["questions"].fingerprint))
    references = _references(store, planned, items)
    students = _answers("student", items, right)
    summary = summarise([references.table("items", COUNTED), students.select(COUNTED)], ("base", "teacher"))
    drawn = None
    if planned["evaluation"].config.evaluation.draws is not None:  # type: ignore[attr-defined]
        drawn = _drawn("student", items, lambda item: not right(item))
        base = [_drawn("base", items, lambda item: False).select(DRAWS_COUNTED)]
        more = {"drawn_against_base": compare_draws((base, "base"), ([drawn.select(DRAWS_COUNTED)], "student"))}
        return _commit(store, planned["evaluation"], students, {**summary._asdict(), **more}, drawn)
    return _commit(store, planned["evaluation"], students, summary._asdict())


def _drawn(model: str, items: list[Item], right: Callable[[Item], bool]) -> pa.Table:
    """Two equal draws of each item."""
    rows = [{**_row(model, item, right(item)), "repeats": "", "sample_index": index} for item in items for index in range(2)]
    return pa.Table.from_pylist(rows, schema=answering.DRAWN)


def _references(store: Store, planned: Mapping[str, StagePlan], items: list[Item]) -> Artifact:
    """The references of a run; committed by the first evaluation that needs them."""
    mine = planned["references"]
    if store.exists("references", mine.fingerprint):
        return store.open("references", mine.fingerprint)
    table = pa.concat_tables([_answers(model, items, lambda item: False) for model in ("base", "teacher")])
    digest = answering.items_digest(store.open("questions", planned["questions"].fingerprint), "test")
    return _commit(store, mine, table, {**accuracies([table.select(COUNTED)], ("base", "teacher"))._asdict(), "asked": digest})


def _commit(
    store: Store, planned: StagePlan, items: pa.Table, summary: dict[str, Any], drawn: pa.Table | None = None
) -> Artifact:
    with store.draft(planned.name, planned.fingerprint) as draft:
        draft.write_shard("items", items)
        if drawn is not None:
            draft.write_shard("draws", drawn)
        return store.commit(
            draft,
            {
                "identity": planned.identity,
                "inputs": planned.inputs,
                "config": planned.config.model_dump(mode="json"),
                "summary": _SUMMARIES[planned.name](
                    **summary, looping={}, tokens=items.num_rows, tokens_per_second=1.0
                ).stored(),
                "timing": {"started": "2026-01-01T00:00:00+00:00"},
                "peak_mib": 1,
                "provenance": {},
            },
        )


def _answers(model: str, items: list[Item], right: Callable[[Item], bool]) -> pa.Table:
    return pa.Table.from_pylist([_row(model, item, right(item)) for item in items], schema=answering.SCHEMA)


def _row(model: str, item: Item, right: bool) -> dict[str, Any]:
    place = dict(zip(("group", "set", "question_id"), item, strict=True))
    texts = dict.fromkeys(("answer", "gold", "rule", "finish_reason", "text"), "")
    numbers = {"prompt_tokens": 1, "completion_tokens": 1}
    return {"model": model, **place, "outcome": "correct" if right else "wrong", **texts, **numbers}
