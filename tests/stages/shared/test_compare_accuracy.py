from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis.statistics import wilson
from pipeline.grading.grade import Outcome
from stages.shared.compare_accuracy import COUNTED, accuracies, compare_students, summarise
from storage.errors import ArtifactError

MODELS = ("base", "teacher", "student")
SETS = [("id", "dial"), ("ood", "lift"), ("ood", "count")]
outcomes = st.sampled_from([kind.value for kind in Outcome])
answers = st.lists(
    st.tuples(st.sampled_from(SETS), outcomes, outcomes, outcomes, st.sampled_from(["", "dial"])), min_size=1, max_size=30
)
Row = tuple[Any, ...]


def rows(found: list[Any]) -> list[Row]:
    return [
        (model, *place, f"{place[1]}/{number}", of_models[m], repeats)
        for number, (place, *of_models, repeats) in enumerate(found)
        for m, model in enumerate(MODELS)
    ]


def tables(found: list[Row], size: int) -> list[pa.Table]:
    pieces = [found[n : n + size] for n in range(0, len(found), size)]
    return [pa.table(dict(zip(COUNTED, map(list, zip(*piece, strict=True)), strict=True))) for piece in pieces]


def stored(found: Any) -> Any:
    """Models as plain data, as a manifest has them."""
    return json.loads(json.dumps(found._asdict(), default=lambda model: model.model_dump()))


def summary(found: list[Row], size: int) -> dict[str, Any]:
    return stored(summarise(tables(found, size), ("base", "teacher")))


@given(answers, st.integers(1, 9), st.randoms())
def test_the_summary_ignores_shards_and_the_order_of_answers(found: list[Any], size: int, random: Any) -> None:
    every = rows(found)
    whole, parts = summary(every, len(every)), summary(random.sample(every, len(every)), size)
    assert sorted(whole.pop("sets")) == sorted(parts.pop("sets")) == sorted(map(list, {item[0] for item in found}))
    assert whole == parts


@given(answers)
def test_accuracies_and_changes_follow_from_the_answers(found: list[Any]) -> None:
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


@given(answers)
def test_figures_without_repeats_are_added_only_if_there_are_repeats(found: list[Any]) -> None:
    result = summary(rows(found), 7)
    once = summary(rows([item for item in found if not item[-1]]), 7) if not all(item[-1] for item in found) else None
    for place in [name for name in result["student_against_base"] if not name.endswith(" without repeats")]:
        kind, _, name = place.partition(":")
        mine = [bool(item[-1]) for item in found if item[0][kind == "set"] == name]
        assert (f"{place} without repeats" in result["student_against_base"]) == (any(mine) and not all(mine))
        if any(mine) and not all(mine):
            assert once is not None
            for model in MODELS:
                assert result["accuracy"][model][f"{place} without repeats"] == once["accuracy"][model][place]
            assert result["student_against_base"][f"{place} without repeats"] == once["student_against_base"][place]


@given(answers)
def test_accuracies_of_two_models_do_not_depend_on_the_third(found: list[Any]) -> None:
    every, models = rows(found), ("base", "teacher")
    alone, beside = stored(accuracies(tables([row for row in every if row[0] in models], 4), models)), summary(every, 4)
    assert alone == {"accuracy": {model: beside["accuracy"][model] for model in models}, "sets": beside["sets"]}


@pytest.mark.parametrize("model", MODELS)
def test_models_with_different_items_are_refused(model: str) -> None:
    found = rows([(SETS[0], "correct", "wrong", "correct", ""), (SETS[0], "wrong", "wrong", "wrong", "")])
    fewer = [row for row in found if (row[0], row[3]) != (model, "dial/1")]
    elsewhere = [(row[0], *SETS[1], *row[3:]) if row[0] == model else row for row in found]
    for other in (fewer, elsewhere):
        with pytest.raises(ArtifactError, match="different items"):
            summary(other, 9)


def of(model: str, every: list[Row]) -> list[Row]:
    return [("student", *row[1:]) for row in every if row[0] == model]


@given(answers, st.integers(1, 9), st.randoms())
def test_two_students_are_compared_by_item_in_any_order(found: list[Any], size: int, random: Any) -> None:
    """The base's answers act as the incumbent's, so the change equals that of student against base."""
    every = rows(found)
    incumbent = of("base", every)
    changes = compare_students(tables(random.sample(incumbent, len(incumbent)), size), tables(of("student", every), 3))
    assert changes is not None
    assert {name: change.model_dump() for name, change in changes.items()} == summary(every, 5)["student_against_base"]


def test_students_with_different_items_are_not_compared() -> None:
    every = of("student", rows([(SETS[0], "correct", "wrong", "correct", ""), (SETS[0], "wrong", "wrong", "correct", "")]))
    fewer = [row for row in every if not row[3].endswith("/1")]
    assert compare_students(tables(fewer, 9), tables(every, 9)) is None
    elsewhere = [(row[0], "ood", "lift", *row[3:]) for row in every]
    assert compare_students(tables(elsewhere, 9), tables(every, 9)) is None
