"""LLM judge for answers that the rules cannot read; it never judges answers that the rules can read.

The judge receives the question, the gold answer and the text. Its reply must end with a line that is one of two words. Any other reply
gives no verdict, and the answer stays unparsed. Thoughts are removed from the text, as in grading. Decoding is greedy, so a text always
gets the same verdict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pipeline.config import Judge
from pipeline.generation import Completion, Decoding, Engine
from pipeline.grading import Outcome
from pipeline.prompts import render
from pipeline.questions import Question
from pipeline.rationales import spoken

RULE: Final = "judge"
"""The rule of a grade that is a judge's."""
_VERDICT: Final = re.compile(r"\W*(correct|wrong)\W*", re.IGNORECASE | re.ASCII)


def judge_prompt(settings: Judge, question: Question, text: str) -> str:
    """What the judge reads.

    Raises:
        ConfigError: the template is not valid, or uses another name.
    """
    return render(settings.prompt, question=question.text, answer=question.answer, text=text)


def verdict(reply: str) -> Outcome | None:
    """What a reply's last line says, after any thoughts; None where it is not exactly one of the two words."""
    lines = [line for line in spoken(reply).splitlines() if line.strip()]
    said = _VERDICT.fullmatch(lines[-1]) if lines else None
    if said is None:
        return None
    return Outcome.CORRECT if said[1].lower() == "correct" else Outcome.WRONG


def replies(engine: Engine, settings: Judge, asked: Sequence[tuple[Question, str]]) -> list[Completion]:
    """The judge's words on each question with a text; none, and `too_long`, where both are more than it can read."""
    prompts = [judge_prompt(settings, question, text) for question, text in asked]
    return engine.generate(prompts, [0] * len(prompts), Decoding(0.0, 1.0, settings.max_tokens, skip_long=True))
