"""LLM judge for answers that the rules cannot read; it never judges answers that the rules can read.

The judge receives the question, the gold answer and the text. Its reply must end with a line that is one of two words. Any other reply
gives no verdict, and the answer stays unparsed. Thoughts are removed from the text, as in grading. Decoding is greedy, so a text always
gets the same verdict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pipeline.config.engines import Judge
from pipeline.generation.engine import Completion, Decoding, Engine
from pipeline.grading.grade import Outcome
from pipeline.prompt_rendering import render
from pipeline.questions.question import Question
from pipeline.rationales.curation import without_thoughts

RULE: Final = "judge"
"""The rule name of grades given by a judge."""
_VERDICT: Final = re.compile(r"\W*(correct|wrong)\W*", re.IGNORECASE | re.ASCII)


def judge_prompt(settings: Judge, question: Question, text: str) -> str:
    """The judge's prompt.

    Raises:
        ConfigError: the template is invalid or uses an unknown name.
    """
    return render(settings.prompt, question=question.text, answer=question.answer, text=text)


def verdict(reply: str) -> Outcome | None:
    """The verdict in the last line of a reply, after any thoughts; None unless it is exactly one of the two words."""
    lines = [line for line in without_thoughts(reply).splitlines() if line.strip()]
    said = _VERDICT.fullmatch(lines[-1]) if lines else None
    if said is None:
        return None
    return Outcome.CORRECT if said[1].lower() == "correct" else Outcome.WRONG


def replies(engine: Engine, settings: Judge, asked: Sequence[tuple[Question, str]]) -> list[Completion]:
    """The judge's reply for each question and text; an empty `too_long` completion if the prompt exceeds its context."""
    prompts = [judge_prompt(settings, question, text) for question, text in asked]
    return engine.generate(prompts, [0] * len(prompts), Decoding(0.0, 1.0, settings.max_tokens, skip_long=True))
