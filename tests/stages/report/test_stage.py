"""Findings of the report page: each good or bad result is stated only if it holds."""

from __future__ import annotations

from typing import Any

import pytest

from stages.core.summaries import EvaluationSummary, QuestionsSummary
from stages.report.stage import about_questions, findings
from tests.support.summaries import accuracy, complete


def evaluation(change: float, low: float, high: float, p: float = 0.01, **cell: int) -> EvaluationSummary:
    counts = accuracy(**{"items": 100, "correct": 50, "wrong": 50, **cell})
    moved = {"change": change, "low": low, "high": high, "p": p}
    found = {
        "accuracy": {"student": {"group:id": counts}},
        "student_against_base": {"group:id": moved, "set:lift": moved},
        "forgetting": {"lift": -change},
    }
    return EvaluationSummary.model_validate(complete("evaluation", found))


def caveats(**fields: Any) -> list[str]:
    return about_questions(QuestionsSummary.model_validate(complete("questions", fields)))


def said(*arguments: float, **cell: int) -> str:
    return " ".join(findings(evaluation(*arguments, **cell)))


def test_a_worse_student_is_stated_in_capitals_with_its_forgetting() -> None:
    assert "WORSE than its base: -8.0 points" in said(-0.08, -0.12, -0.04)
    assert "Forgetting on lift: 8.0 points" in said(-0.08, -0.12, -0.04)


def test_a_change_with_zero_in_its_interval_is_not_distinguishable() -> None:
    assert "not distinguishable" in said(0.03, -0.01, 0.07)
    assert "Forgetting" not in said(0.03, -0.01, 0.07)


def test_a_student_below_its_base_is_stated_even_within_chance() -> None:
    assert "below its base, though within chance: -3.0 points" in said(-0.03, -0.07, 0.01)
    assert "Forgetting on lift: 3.0 points lost, within chance" in said(-0.03, -0.07, 0.01)


@pytest.mark.parametrize("change", [-0.08, 0.08])
def test_a_change_counts_only_if_interval_and_test_agree(change: float) -> None:
    words = said(change, change - 0.04, change + 0.04, 0.07)
    assert "WORSE" not in words
    assert "better" not in words
    assert change > 0 or "Forgetting on lift: 8.0 points lost, within chance" in words


def test_a_better_student_is_stated() -> None:
    assert "better than its base: +8.0" in said(0.08, 0.04, 0.12)


def test_low_accuracy_and_ungraded_answers_are_stated() -> None:
    words = said(0.0, -0.1, 0.1, correct=1, wrong=59, unparsed=10, truncated=30)
    assert "almost nothing correctly: 1 of 100" in words
    assert "40% of the student's answers could not be graded (10 unparsed, 30 truncated, 0 of them in a loop)" in words
    assert "almost nothing" not in said(0.0, -0.1, 0.1)


def test_question_warnings_are_stated_only_if_they_apply() -> None:
    plain: dict[str, Any] = {"evaluation": {"gsm-hard": 1319}}
    nothing: dict[str, Any] = {"left_out_because_long": {}, "left_out_because_of_a_passage": {}, "repeats": {}}
    plain |= {**nothing, "trained_despite_evaluation_only": [], "left_out_because_evaluated": 0}
    assert caveats(**plain) == []
    odd = {"left_out_because_long": {"gsm-hard": 2}, "repeats": {"gsm-hard": 329}, "trained_despite_evaluation_only": ["bbh"]}
    odd |= {"left_out_because_of_a_passage": {"gsm8k": 3}, "left_out_as_near_duplicates": 4, "left_out_because_evaluated": 5}
    words = " ".join(caveats(**{**plain, **odd}))
    assert "Trained on bbh, which is for evaluation only" in words
    assert "an evaluation set has the same id or text: 5." in words
    assert "share a long passage with questions of gsm8k: 3." in words
    assert "nearly the same as another training question: 4." in words
    assert "Left out because longer than max_characters: 2 of gsm-hard." in words
    assert "329 of 1319 questions of gsm-hard are in another set too" in words
