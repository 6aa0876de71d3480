"""Figures of several draws per question, checked against their definitions and by simulation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis.statistics import change_interval, sampled_change
from stages.shared.answering import DRAWN
from stages.shared.draws import compare_draws, pass_at_1, summarise_draws
from storage.artifact import Draft
from tests.support.artifacts import write_artifact

Drawn = tuple[str, str | None]
RIGHT, WRONG, UNREAD = ("correct", "7"), ("wrong", "8"), ("unparsed", None)


def figures(folder: Path, questions: list[list[Drawn]], place: str = "group:id") -> dict[str, Any]:
    """The figures of a student with these draws, one list per question."""
    rows = [
        dict.fromkeys(DRAWN.names) | {"model": "student", "group": "id", "set": "dial", "question_id": f"q{number}",
        "repeats": "", "outcome": outcome, "answer": answer, "sample_index": index}
        for number, draws in enumerate(questions) for index, (outcome, answer) in enumerate(draws)
    ]  # fmt: skip
    found = {}

    def write(draft: Draft) -> dict[str, Any]:
        draft.write_shard("draws", pa.Table.from_pylist(rows, schema=DRAWN))
        found.update(summarise_draws(draft, ["student"]))
        return {}

    write_artifact(folder, "evaluation", write)
    return found["student"][place].model_dump()


def test_pass_at_1_pass_at_all_majority_and_spread_by_hand(tmp_path: Path) -> None:
    cell = figures(tmp_path, [[RIGHT, WRONG, UNREAD, WRONG], [RIGHT, RIGHT, RIGHT, RIGHT]])
    assert cell["items"] == 2
    assert cell["pass_at_1"] == 5 / 8
    assert cell["pass_at_all"] == 1.0
    assert cell["majority"] == 0.5
    assert cell["spread"] == pytest.approx(np.std([1.0, 0.5, 0.5, 0.5], ddof=1))


@pytest.mark.parametrize(
    ("draws", "right"),
    [
        ([RIGHT, RIGHT, WRONG], True),
        ([RIGHT, WRONG, WRONG], False),
        ([RIGHT, ("wrong", "8"), ("wrong", "9")], True),  # a tie of three answers: the first one drawn
        ([("wrong", "8"), RIGHT, ("wrong", "9")], False),
        ([UNREAD, UNREAD, RIGHT], True),  # an unparsed draw has no vote
        ([UNREAD, UNREAD, UNREAD], False),
        ([("correct", "0.75"), ("wrong", "2"), ("correct", "3/4"), ("wrong", "2")], True),  # equal correct answers count as one
    ],
)
def test_the_majority_is_the_most_frequent_parsed_answer(tmp_path: Path, draws: list[Drawn], right: bool) -> None:
    assert figures(tmp_path, [draws, draws])["majority"] == float(right)


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=30))
def test_the_interval_is_between_independent_draws_and_one_per_question(found: list[list[bool]]) -> None:
    from pipeline.analysis.statistics import wilson

    right_NC = np.array(found)
    value, low, high = pass_at_1(right_NC)
    assert low - 1e-9 <= value <= high + 1e-9
    assert value == pytest.approx(right_NC.mean())
    every, once = wilson(int(right_NC.sum()), right_NC.size), wilson(round(value * len(found)), len(found))
    assert high - low >= every.high - every.low - 1e-6
    assert high - low <= once.high - once.low + 0.1  # `once` is rounded to a whole question


def test_the_interval_has_its_nominal_coverage() -> None:
    """Question difficulty varies, as in reality: treating all draws as independent would cover the truth far less often."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        chances_N = rng.beta(0.4, 0.4, size=100)
        interval = pass_at_1(rng.random((100, 8)) < chances_N[:, None])
        held += interval.low <= 0.5 <= interval.high
    assert 0.92 <= held / 400 <= 0.98


def _tables(model: str, right: list[list[bool]], order: list[int] | None = None) -> Iterator[pa.Table]:
    """One table of draws per question."""
    for number in order or range(len(right)):
        rows = [
            {"model": model, "group": "id", "set": f"set{number % 2}", "question_id": f"q{number}", "repeats": "",
             "outcome": "correct" if one else "wrong", "answer": "7"} for one in right[number]
        ]  # fmt: skip
        yield pa.Table.from_pylist(rows)


def test_changes_are_paired_by_question_whatever_the_order_of_the_rows() -> None:
    before, after = [[True, False], [False, False], [True, True]], [[True, True], [False, True], [True, False]]
    found = compare_draws((_tables("base", before), "base"), (_tables("student", after, [2, 0, 1]), "student"))
    assert found is not None
    assert found["group:id"].change == pytest.approx((0.5 + 0.5 - 0.5) / 3)
    assert found["set:set1"].change == 0.5
    assert compare_draws((_tables("base", before), "base"), (_tables("student", after[:2]), "student")) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_with_one_draw_the_interval_is_that_of_greedy_answers(pairs: list[tuple[bool, bool]]) -> None:
    before_NC, after_NC = (np.array([[pair[side]] for pair in pairs]) for side in (0, 1))
    assert sampled_change(before_NC, after_NC).interval == pytest.approx(change_interval(before_NC.T, after_NC.T))


def test_the_interval_of_a_change_has_its_nominal_coverage() -> None:
    """Items differ in difficulty and in what training changed on them; four draws each, 60 items."""
    rng = np.random.default_rng(0)
    covered = rejected = 0
    for _ in range(1000):
        difficulty_N = rng.beta(0.6, 0.6, 60)
        moved_N = np.clip(difficulty_N + rng.normal(0, 0.3, 60), 0, 1)
        before_NC, after_NC = (rng.random((60, 4)) < chance_N[:, None] for chance_N in (difficulty_N, moved_N))
        _, low, high = sampled_change(before_NC, after_NC).interval
        # The truth for other items of this kind: the clipping is symmetric, so nothing changes on average.
        covered += low <= 0 <= high
        rejected += sampled_change(before_NC, after_NC).p < 0.05
    assert 930 <= covered <= 980
    assert rejected == 1000 - covered
