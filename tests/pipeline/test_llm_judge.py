"""LLM judge: a verdict is CORRECT or WRONG on the last line, else none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.engines import Judge
from pipeline.config.models import LocalModel
from pipeline.grading.grade import Outcome
from pipeline.llm_judge import judge_prompt, verdict
from pipeline.questions.question import Question


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("CORRECT", Outcome.CORRECT),
        ("The final answer is 12, as it should be.\n\n**CORRECT**\n", Outcome.CORRECT),
        ("It says 13.\r\nWrong.", Outcome.WRONG),
        ("<think>CORRECT? No.\nCORRECT</think>WRONG", Outcome.WRONG),
        ("", None),
        ("CORRECT or WRONG", None),
        ("The solution is CORRECT", None),
        ("NOT CORRECT", None),
        ("INCORRECT", None),
        ("CORRECT\nBut I am not sure.", None),
        ("<think>CORRECT", None),
    ],
)
def test_the_verdict_is_read_from_the_last_line(reply: str, expected: Outcome | None) -> None:
    assert verdict(reply) is expected


def test_the_judge_prompt_shows_the_choices() -> None:
    question = Question("q", "Which one flies?", "B", "choice", ("a stone", "a bird"))
    settings = Judge(model=LocalModel(path="/models/judge"), prompt="{{ question }}|{{ answer }}|{{ text }}")
    assert judge_prompt(settings, question, "The bird.") == "Which one flies?\n(A) a stone\n(B) a bird|B|The bird."


@given(st.text())
def test_no_text_makes_the_verdict_raise(reply: str) -> None:
    assert verdict(reply) in (Outcome.CORRECT, Outcome.WRONG, None)
