"""Checks prompt lengths before loading a model or calling a paid API: prompts that leave an engine or the student no room."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pipeline.config.models import Turns, Weights
from pipeline.errors import QuestionError
from pipeline.model_folders import load_tokenizer
from pipeline.prompt_rendering import Prompt, prompt_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REMEDY: Final = "or exclude long questions with max_characters on their source"

PromptStream = Iterable[tuple[str, Prompt]]
"""Pairs of question id and prompt."""


def _longest(
    tokenizer: PreTrainedTokenizerBase, prompts: PromptStream, turns: Turns | None, limit: int
) -> tuple[str, int, int]:
    """Id and token count of the longest prompt, and the number of prompts with more than `limit` tokens."""
    longest, too_long = ("", 0), 0
    for question_id, prompt in prompts:
        length = len(prompt_tokens(tokenizer, prompt, turns))
        too_long += length > limit
        longest = max(longest, (question_id, length), key=lambda item: item[1])
    return *longest, too_long


def check_lengths(
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptStream,
    turns: Turns | None,
    room: int,
    limit: int,
    whose: str = "its prompt",
) -> None:
    """Reject prompts that leave no room for an answer.

    Raises:
        QuestionError: the number of such prompts, the longest one, and the context that would fit it.
    """
    question_id, length, too_long = _longest(tokenizer, prompts, turns, limit - room)
    if too_long:
        raise QuestionError(
            f"question {question_id!r}: {whose}, the longest of {too_long} that are too long, has {length} tokens; with max_tokens "
            f"{room} it exceeds the context of {limit}; raise engine.max_context to {length + room}, lower max_tokens, {_REMEDY}"
        )


def check_trainable(student: Weights, prompts: PromptStream, max_length: int) -> None:
    """Reject training questions that leave the student no room for a single token of a rationale.

    Raises:
        QuestionError: the number of such questions, and the longest one.
    """
    question_id, length, too_long = _longest(load_tokenizer(student), prompts, student.dialogue, max_length - 1)
    if too_long:
        raise QuestionError(
            f"question {question_id!r}: its prompt, the longest of {too_long} that are too long, has {length} student tokens, which leaves "
            f"no room for a rationale within training.max_length {max_length}; raise training.max_length, {_REMEDY}"
        )
