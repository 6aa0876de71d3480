"""Majority vote over known answers."""

from __future__ import annotations

import pytest

from pipeline.grading.majority import majority_is_right


@pytest.mark.parametrize(
    ("outcomes", "answers", "right"),
    [
        (["correct", "wrong", "wrong"], ["5", "7", "7"], False),
        (["correct", "wrong", "wrong"], ["5", "7", "8"], True),
        (["correct", "wrong", "wrong"], ["5", None, None], True),
        (["correct", "correct", "wrong", "wrong"], [None, "5", "7", None], True),
        (["wrong", "wrong"], [None, None], False),
        (["unparsed", "truncated"], [None, None], False),
    ],
)
def test_wrong_verdicts_without_an_answer_do_not_form_a_majority(
    outcomes: list[str], answers: list[str | None], right: bool
) -> None:
    assert majority_is_right(outcomes, answers) is right
