"""A model's thoughts are told from its answer by whatever marks its family writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grading.grade import Outcome, grade
from pipeline.grading.wording.thoughts import behind_thoughts, with_think_marks
from pipeline.rationales.curation import reasoning, without_thoughts

MARKS = [
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>"), ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]  # fmt: skip


@pytest.mark.parametrize(("start", "end"), MARKS)
@pytest.mark.parametrize("opened", [True, False])
def test_an_answer_in_a_thought_is_no_answer(start: str, end: str, opened: bool) -> None:
    text = f"{start * opened}Is the answer 5? The answer is \\boxed{{5}}.{end}\nIt is four. The answer is \\boxed{{4}}."
    assert grade(text, True, "4", "number").outcome is Outcome.CORRECT
    assert grade(text, True, "5", "number").outcome is Outcome.WRONG
    assert without_thoughts(text) == "It is four. The answer is \\boxed{4}."
    assert reasoning(text, "keep") == f"{'<think>' * opened}Is the answer 5? The answer is \\boxed{{5}}.</think>\nIt is four."


@given(st.text())
def test_a_text_without_thoughts_stays_as_it_is(text: str) -> None:
    if not any(end in text for _, end in MARKS):
        assert with_think_marks(text) == behind_thoughts(text) == without_thoughts(text) == text
