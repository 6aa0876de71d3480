"""Grades real texts by models and people.

The shipped samples are used. MIND_RECORDED_DATA names a folder with the complete sets in the same layout; its numbers are those of
docs/grading.md.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.grading.grade import Outcome, canonical, grade
from tests.support.questions.layouts import BENCHMARKS

COMPLETE = os.environ.get("MIND_RECORDED_DATA")
DATA = BENCHMARKS if COMPLETE is None else Path(COMPLETE)


def _expected(sampled: int, complete: int) -> int:
    return sampled if COMPLETE is None else complete


def _rows(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(DATA / f"{name}.parquet").to_pylist()
    return rows


def _rows_if_shipped(name: str) -> list[dict[str, Any]]:
    return _rows(name) if (DATA / f"{name}.parquet").exists() else []


def test_labels_of_recorded_outputs_follow_from_their_recorded_answers() -> None:
    """Recorded texts stop before the answer, which has its own column; with it appended, our label must match."""
    golds = {row["id"]: row["answer"] for split in ("train", "test") for row in _rows(f"strategyqa/{split}")}
    outputs = [row for row in _rows("strategyqa/rationales") if row["predicted_answer"] is not None]
    agree = 0
    for row in outputs:
        text = f"{row['rationale']}\nTherefore, the answer (Yes or No) is {row['predicted_answer'].capitalize()}."
        graded = grade(text, True, golds[row["question_id"]], "boolean")
        agree += (graded.outcome is Outcome.CORRECT) == row["is_correct"] and graded.answer == row["predicted_answer"]
    assert len(outputs) == _expected(505, 9170)
    assert agree == len(outputs)


def test_answers_read_from_recorded_outputs_match_the_recorded_ones() -> None:
    """docs/grading.md lists the disagreements by kind: each text contradicts itself or its recorded answer."""
    found: Counter[tuple[str | None, bool]] = Counter()
    for row in _rows("strategyqa/rationales"):
        if row["predicted_answer"] is not None:
            graded = grade(row["rationale"], True, row["predicted_answer"], "boolean")
            found[graded.rule, graded.outcome is Outcome.CORRECT] += 1
    assert found["stated", False] == 0
    assert found["stated", True] >= _expected(8, 139)
    assert found["last", True] >= _expected(92, 1623)
    assert found["last", False] <= _expected(5, 44)


def _human(split: str) -> list[dict[str, Any]]:
    return [{**row, "rationale": re.sub(r"<<[^>]*>>", "", row["rationale"])} for row in _rows(f"gsm8k/{split}")]


def test_gsm8k_solutions_are_graded_correct() -> None:
    """GSM8K's human solutions state no answer, so only the rule `last` applies."""
    solutions = [*_human("train"), *_human("test")]
    right = [grade(row["rationale"], True, row["answer"], "number").outcome is Outcome.CORRECT for row in solutions]
    assert len(solutions) == _expected(1419, 8792)
    assert sum(right) / len(right) >= 0.993


def test_a_solution_is_not_correct_for_the_gold_answer_of_another_question() -> None:
    solutions = _human("test")
    for row, other in zip(solutions, [*solutions[1:], solutions[0]], strict=True):
        if other["answer"] != row["answer"]:
            assert grade(row["rationale"], True, other["answer"], "number").outcome is not Outcome.CORRECT or (
                grade(row["rationale"], True, row["answer"], "number").outcome is not Outcome.CORRECT
            )


@pytest.mark.parametrize("name", ["gsm8k_perspectives", "bbh_perspectives"])
def test_written_rationales_get_their_recorded_label(name: str) -> None:
    """Boxed as recorded, and with the same answer stated instead. They are not among the shipped samples."""
    questions = {row["id"]: row for row in _rows_if_shipped(f"{name}/questions")}
    for row in _rows_if_shipped(f"{name}/rationales"):
        asked = questions[row["question_id"]]
        body, box, answer = row["rationale"].rpartition(" answer is \\boxed{")
        said = answer.rstrip(".}\n ")
        stated = f"{body} answer is {f'({said})' if asked['answer_type'] == 'choice' else said}."
        for text in (row["rationale"], stated) if box and asked["answer_type"] != "text" else (row["rationale"],):
            graded = grade(text, True, asked["answer"], asked["answer_type"], asked["choices"])
            assert (graded.outcome is Outcome.CORRECT) == row["is_correct"], (text[-200:], asked["answer"])


def test_the_few_shot_chains_of_big_bench_hard_are_correct() -> None:
    shots = [row for split in ("train", "validation", "test") for row in _rows_if_shipped(f"bbh/{split}") if row["rationale"]]
    assert len(shots) >= _expected(0, 66)
    for row in shots:
        assert grade(row["rationale"], True, row["answer"], row["answer_type"], row["choices"]).outcome is Outcome.CORRECT


def test_options_that_are_judged_one_by_one_give_one_answer() -> None:
    """Explanations of SAT questions; four misprint their own letter or a bracket."""
    rows = [row for row in _rows("agieval/test") if row["task"] in ("sat-math", "sat-en") and row["rationale"]]
    outcomes = Counter(grade(row["rationale"], True, row["answer"], "choice", row["choices"]).outcome for row in rows)
    assert outcomes[Outcome.CORRECT] >= 0.85 * len(rows)
    assert outcomes[Outcome.WRONG] <= 0.015 * len(rows)


def test_competition_mathematics_solutions_are_graded_by_their_box() -> None:
    """Two disagree because the data set cut their gold answer ("0,4" became "4"), four because it names one of two boxed solutions."""
    solutions = [row for row in _rows("agieval/test") if row["task"] == "math"]
    kinds = {"number": "number", "text": "math"}
    graded = [grade(row["rationale"], True, row["answer"], kinds[row["answer_type"]]) for row in solutions]
    assert len(graded) == _expected(30, 1000)
    assert sum(item.outcome is Outcome.CORRECT and item.rule == "boxed" for item in graded) >= _expected(30, 994)


def test_aqua_solutions_are_graded_by_their_letter() -> None:
    solutions = [row for row in _rows("agieval/test") if row["task"] == "aqua-rat" and row["rationale"]]
    outcomes = Counter(grade(row["rationale"], True, row["answer"], "choice", row["choices"]).outcome for row in solutions)
    assert outcomes[Outcome.CORRECT] / len(solutions) >= 0.98
    assert outcomes[Outcome.WRONG] == 0


def test_every_gold_answer_has_a_stable_canonical_form() -> None:
    for name in (
        "gsm8k/test",
        "svamp/test",
        "gsm_hard/test",
        "bbh/test",
        "agieval/test",
        "commonsenseqa/validation",
        "strategyqa/test",
    ):
        for row in _rows(name):
            kind = "math" if (row["task"], row["answer_type"]) == ("math", "text") else row["answer_type"]
            once = canonical(row["answer"], kind, row["choices"])
            assert once is not None, (name, row["id"])
            assert canonical(once, kind, row["choices"]) == once, (name, row["id"])
