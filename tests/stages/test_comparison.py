from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ArtifactError
from pipeline.grading import Outcome
from pipeline.statistics import wilson
from stages.comparison import COUNTED, compare_students, summarise

MODELS = ("base", "teacher", "student")
SETS = [("id", "dial"), ("ood", "lift"), ("ood", "count")]
outcomes = st.sampled_from([kind.value for kind in Outcome])
answers = st.lists(st.tuples(st.sampled_from(SETS), outcomes, outcomes, outcomes), min_size=1, max_size=30)
Row = tuple[Any, ...]


def rows(found: list[Any]) -> list[Row]:
    return [
        (model, *place, f"{place[1]}/{number}", of_models[m], number)
        for number, (place, *of_models) in enumerate(found)
        for m, model in enumerate(MODELS)
    ]


def summary(found: list[Row], size: int) -> dict[str, Any]:
    pieces = [found[n : n + size] for n in range(0, len(found), size)]
    shards = [pa.table(dict(zip(COUNTED, map(list, zip(*piece, strict=True)), strict=True))) for piece in pieces]
    return summarise(shards, MODELS, 100, 0)


@given(answers, st.integers(1, 9), st.randoms())
def test_neither_shards_nor_the_order_of_answers_matter(found: list[Any], size: int, random: Any) -> None:
    every = rows(found)
    whole, parts = summary(every, len(every)), summary(random.sample(every, len(every)), size)
    assert sorted(whole.pop("sets")) == sorted(parts.pop("sets")) == sorted(map(list, {item[0] for item in found}))
    assert whole == parts


@given(answers)
def test_accuracies_and_changes_are_those_of_the_answers(found: list[Any]) -> None:
    result = summary(rows(found), 7)
    for group in {place[0] for place, *_ in found}:
        mine = [item for item in found if item[0][0] == group]
        right = {model: [item[1 + m] == "correct" for item in mine] for m, model in enumerate(MODELS)}
        for model in MODELS:
            cell = result["accuracy"][model][f"group:{group}"]
            assert cell["items"] == len(mine) == sum(cell[kind] for kind in Outcome)
            assert cell["accuracy"] == wilson(sum(right[model]), len(mine)).value
        change = (sum(right["student"]) - sum(right["base"])) / len(mine)
        assert result["student_against_base"][f"group:{group}"]["change"] == pytest.approx(change)
    assert set(result["forgetting"]) == {place[1] for place, *_ in found if place[0] == "ood"}
    assert result["tokens"] == 3 * sum(range(len(found)))


def test_models_that_answered_different_items_are_not_compared() -> None:
    found = rows([(SETS[0], "correct", "wrong", "correct"), (SETS[0], "wrong", "wrong", "wrong")])
    with pytest.raises(ArtifactError, match="different items"):
        summary(found[:-1], 9)


def table(found: list[Row]) -> list[pa.Table]:
    return [pa.table(dict(zip(COUNTED, map(list, zip(*found, strict=True)), strict=True)))]


@given(answers, st.randoms())
def test_two_students_are_compared_item_by_item_whatever_else_was_answered_and_in_what_order(
    found: list[Any], random: Any
) -> None:
    """The base's answers stand in for the incumbent's, so the change must be that of student against base."""
    every = rows(found)
    incumbent = [("student", *row[1:]) for row in every if row[0] == "base"] + [row for row in every if row[0] == "teacher"]
    changes = compare_students(table(random.sample(incumbent, len(incumbent))), table(every), 100, 0)
    assert changes == summary(every, 5)["student_against_base"]


def test_students_that_answered_different_items_are_not_compared() -> None:
    every = rows([(SETS[0], "correct", "wrong", "correct"), (SETS[0], "wrong", "wrong", "correct")])
    fewer = [row for row in every if not row[3].endswith("/1")]
    assert compare_students(table(fewer), table(every), 100, 0) is None
    elsewhere = [(row[0], "ood", "lift", *row[3:]) for row in every]
    assert compare_students(table(elsewhere), table(every), 100, 0) is None
