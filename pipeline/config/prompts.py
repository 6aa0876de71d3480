"""Prompt templates of teacher and student."""

from __future__ import annotations

from pipeline.schema.fields import Frozen, identity


class Prompts(Frozen):
    """Jinja templates, rendered in a sandbox; an unknown variable is an error."""

    question: str = identity("{{ question }}\n\nReason step by step. End with the sentence: The answer is \\boxed{ANSWER}.")
    """The student's prompt; variable `question`."""
    perspective: str = identity("{{ question }}\n\n{{ instruction }}\nEnd with the sentence: The answer is \\boxed{ANSWER}.")
    """The teacher's prompt; variables `question`, `perspective` (its name) and `instruction`."""
    answer: str = identity("{{ prompt }}\n\nGive the answer alone, without reasoning.")
    """Prompt of the answer-only task of `training.answer_weight`; variable `prompt` is `question` rendered."""

    def of_rationales(self) -> Prompts:
        """The templates that stages before training read: another answer-only prompt leaves their artifacts valid."""
        return self.model_copy(update={"answer": Prompts().answer})
