"""Prompt templates of teacher and student."""

from __future__ import annotations

from typing import Final

from pydantic import field_validator

from pipeline.schema.fields import Frozen, identity

LIKELIHOOD: Final = "Question: {{ question }}\nAnswer:"
"""The default of `Prompts.likelihood`; not the field's own, so that it is in no fingerprint of a run that scores nothing."""


class Prompts(Frozen):
    """Jinja templates, rendered in a sandbox; an unknown variable is an error."""

    question: str = identity(
        "{{ question }}\n\nReason step by step. End with the sentence: The answer is \\boxed{}. Write the answer between the braces."
    )
    """The student's prompt; variable `question`. No word stands between the braces, because small models copy it as their answer."""
    perspective: str = identity(
        "{{ question }}\n\n{{ instruction }}\nEnd with the sentence: The answer is \\boxed{}. Write the answer between the braces."
    )
    """The teacher's prompt; variables `question`, `perspective` (its name) and `instruction`."""
    answer: str = identity("{{ prompt }}\n\nGive the answer alone, without reasoning.")
    """Prompt of the answer-only task of `training.answer_weight`; variable `prompt` is `question` rendered."""
    likelihood: str | None = identity(None)
    """The text before a choice whose likelihood is measured (`evaluation.likelihood`); variables `question`, without its choices, and
    `choices`, the lettered choices, one per line. By default `Question: {{ question }}\\nAnswer:`, as lm-evaluation-harness asks such
    questions. Plain text for every model: no chat template is applied. The choice's text follows after a space, so the template ends
    without one.
    """

    stop: tuple[str, ...] | None = identity(None, max_length=4)
    """Texts that end an answer before its end token; at most four, as servers allow. By default, for models that take plain text
    (`chat: false`), a blank line and the words that the template puts before the question, for example `\\n\\nQuestion:`, since base
    models go on with a next question; for chat models none.
    """

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if stop is not None and not all(stop):
            raise ValueError("an empty text would end every answer at once; remove it")
        return stop

    def of_rationales(self) -> Prompts:
        """The templates that stages before training read: another answer-only prompt leaves their artifacts valid."""
        return self.of_training().model_copy(update={"answer": Prompts().answer})

    def of_training(self) -> Prompts:
        """The templates that training reads: another likelihood prompt leaves the student valid."""
        return self.model_copy(update={"likelihood": None})
