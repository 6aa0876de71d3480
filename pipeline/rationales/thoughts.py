"""Fits a rationale to what the student's chat template does about thoughts, so that a row has no thought or exactly one, well formed.

Templates of thinking models differ: some leave the thought to the model, some open it at the end of the prompt (`<think>`), some write an
empty thought themselves. A rationale continues the prompt: behind an opened thought it first closes it, or brings the thought that
`synthesis.thoughts: keep` keeps, without a second opening mark. The marks are trained on, so that the student answers in the same form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline.config.models import Turns
from pipeline.errors import ModelError
from pipeline.prompt_rendering import rendered
from pipeline.text_tokens import THOUGHT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END = THOUGHT
PromptEnd = Literal["free", "opened", "closed"]
"""What the prompt does about thoughts: nothing, it opens one, or it contains an empty one."""


def prompt_end(tokenizer: PreTrainedTokenizerBase, turns: Turns | None) -> PromptEnd:
    """What the student's template writes behind the last turn; a prompt without turns says nothing."""
    if turns is None:
        return "free"
    start, end = (rendered(tokenizer, "?", turns).rpartition("?")[2].rfind(mark) for mark in (START, END))
    if start > end:
        return "opened"
    return "closed" if end >= 0 else "free"


def fitted(rationale: str, before: PromptEnd) -> str:
    """The rationale as it continues such a prompt; without thoughts and marks it stays as it is, except behind an opened thought.

    Raises:
        ModelError: the rationale has a thought, but the prompt already has an empty one.
    """
    thought, closed, said = rationale.rpartition(END)
    thought = thought.replace(START, "").replace(END, "").strip()
    said = said.replace(START, "")
    if before == "opened":
        return f"{thought}\n{END}{said}" if thought else f"\n{END}\n\n{said.lstrip()}"
    if not thought:
        return said.lstrip() if closed else said
    if before == "closed":
        raise ModelError(
            "synthesis.thoughts: keep, but the student's chat template writes an empty thought before its answer; set thoughts to drop, or "
            "correct student.turns.template"
        )
    well_formed = rationale.startswith(START) and rationale.count(START) == rationale.count(END) == 1
    return rationale if well_formed else f"{START}\n{thought}\n{END}{said}"
