"""Sample quality figures, on tables small enough to count by hand."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.perspectives.perspective import Perspective
from pipeline.perspectives.rationale_form import Form
from pipeline.rationales.curation import SAMPLE, jaccard
from pipeline.rationales.curation import five_grams as grams
from stages.report.sample_quality import ALL, Sums, add, forms_of, summarised

PLAN = Perspective(name="planning", description="d", instruction="i", form=Form(all=("^plan:",)))
FREE = Perspective(name="free", description="d", instruction="i")
PLANNED = "**Plan:** add two and three.\r\nThat is five. The answer is \\boxed{5}."
OTHER = "We know the sum of two and three. The answer is \\boxed{5}."


def sample(question: str, name: str, index: int, text: str, outcome: str = "correct") -> dict[str, Any]:
    return dict(zip(SAMPLE, (question, name, index, outcome, "5", text, "5", "stop"), strict=True))


SHARDS = [
    [
        sample("a", "planning", 0, OTHER, "wrong"),
        sample("a", "planning", 1, PLANNED),
        sample("a", "free", 0, OTHER),
        sample("b", "planning", 0, OTHER),
        sample("b", "planning", 1, PLANNED, "wrong"),
    ],
    [sample("c", "free", 0, f"<think>{PLANNED}</think> {OTHER}"), sample("c", "planning", 0, PLANNED, "truncated")],
]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    types = {"sample_index": pa.int32()}
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, types.get(name, pa.string())) for name in SAMPLE]))


def looked_at(shards: list[list[dict[str, Any]]]) -> dict[str, Any]:
    sums = Sums(float)
    for rows in shards:
        samples = table(rows)
        add(samples, forms_of(samples, (PLAN, FREE), "drop"), (PLAN, FREE), "drop", sums)
    return summarised(sums, ["planning", "free"])


def test_form_is_true_or_false_or_none_if_no_form_is_set() -> None:
    forms = forms_of(table(SHARDS[0]), (PLAN, FREE), "drop")
    assert forms["form"].to_pylist() == [False, True, None, False, True]
    assert forms.column_names == ["question_id", "perspective", "sample_index", "form"]
    assert forms["sample_index"].to_pylist() == [0, 1, 0, 0, 1]


def test_coverage_needs_a_correct_sample_of_the_required_form() -> None:
    found = looked_at(SHARDS)
    assert found["planning"]["form"] == pytest.approx(3 / 5)
    assert found["planning"]["coverage"] == pytest.approx(
        1 / 3
    )  # only a: the correct sample of b has another form, and c is truncated
    assert found["free"]["form"] is None
    assert found["free"]["coverage"] == pytest.approx(2 / 3)


def test_distances_are_within_a_question_without_thoughts_or_conclusion() -> None:
    found = looked_at(SHARDS)
    planned, other = "**Plan:** add two and three.\r\nThat is five.", "We know the sum of two and three."
    distance = 1 - jaccard(grams(planned), grams(other))
    assert found[ALL]["distance"] == found["free"]["distance"] == found["planning"]["distance"] == pytest.approx(distance)
    assert found["free"]["words"] == pytest.approx(9)
    assert found["free"]["distinct_2"] == 1.0
    same = looked_at([[sample("a", name, 0, OTHER) for name in ("planning", "free")]])
    assert same[ALL] == {"distance": 0.0, "distinct_2": 0.5}


def test_sums_over_shards_equal_those_of_one_table() -> None:
    whole, parts = looked_at([[row for rows in SHARDS for row in rows]]), looked_at(SHARDS)
    assert parts == {name: pytest.approx(found) for name, found in whole.items()}


def test_figures_are_none_without_rationales_to_compare() -> None:
    found = looked_at([[sample("a", "planning", 0, OTHER, "wrong")]])
    assert found["planning"] == {"form": 0.0, "coverage": 0.0, "distance": None, "distinct_2": None, "words": None}
    assert found[ALL] == {"distance": None, "distinct_2": None}
