"""What a teacher says of given texts: at every token, its most likely tokens and their log-probabilities.

The texts are the student's rows, as it is trained on them: with the answer sentence, in its own marks, with its end token. They are scored
after selection, not captured while the teacher samples (our choice): many samples are not kept, a kept one is rewritten at its end, and a
text need not be tokenised into the tokens that were sampled. So every trained token has a distribution, imported rationales have them as
well, and one forward pass over the kept texts costs little beside sampling.

The teacher reads its own prompt, with the perspective's instruction, as when it wrote. Its end token stands for the student's, and the
other way round: a chat model ends its turn with another token than its base.

Axes: T tokens of a text, C the teacher's most likely tokens of a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.config.models import HubModel, LocalModel, Teacher, Weights
from pipeline.errors import ConfigError, ModelError
from pipeline.model_folders import load_tokenizer
from pipeline.model_thoughts import prompt_end, thought_form
from pipeline.prompt_rendering import Prompt, end_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Given(NamedTuple):
    """The teacher's prompt, and the tokens of the text after it, which are scored."""

    prompt: Prompt
    text: list[int]


class Scores(NamedTuple):
    """The most likely tokens at every token of a text, most likely first: ids (T, C) and log-probabilities (T, C)."""

    ids_TC: NDArray[np.int32]
    logprobs_TC: NDArray[np.float32]


class TeacherScores(Protocol):
    """A teacher that can be asked."""

    def score(self, given: Sequence[Given], top_k: int) -> list[Scores]:
        """Scores of each text, in order, with C = `top_k`."""
        ...


def check_scores(teacher: Teacher, student: Weights, field: str, top_k: int) -> None:
    """Refuse a teacher whose distributions would not be about the student's tokens; a server's vocabulary shows in its first reply.

    Raises:
        ConfigError: `top_k` is more than the student has, its token ids mean other tokens, or its prompts do something else about
            thoughts. `field` asked for scores.
    """
    own = load_tokenizer(student)
    if top_k > len(own):
        raise ConfigError(f"{field}: {top_k} likely tokens, but the student has only {len(own)}; lower it")
    if isinstance(teacher, LocalModel | HubModel):
        one, other = load_tokenizer(teacher).get_vocab(), own.get_vocab()
        if one != other:
            differing = min(token for token in one.keys() | other.keys() if one.get(token) != other.get(token))
            raise ConfigError(
                f"{field}: teacher and student have different vocabularies of {len(one)} and {len(other)} tokens, for example "
                f"{differing[:40]!r} is number {one.get(differing)} and {other.get(differing)}; use a student with the teacher's "
                f"tokenizer, or leave {field} out"
            )
    theirs, mine = prompt_end(teacher), thought_form(own, student).before
    if theirs != mine:
        raise ConfigError(
            f"{field}: the end of the teacher's prompt leaves thoughts {theirs}, that of the student's {mine}, so the teacher would read "
            "the student's rows as something else; set turns.template of both to the same (for example {enable_thinking: false}), or "
            f"leave {field} out"
        )


def end_tokens(teacher: Teacher, student: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The end tokens of teacher and student; a server's is taken to be the student's."""
    own = load_tokenizer(teacher) if isinstance(teacher, LocalModel | HubModel) else student
    return end_token(own), end_token(student)


def in_students_words(found: Scores, ends: tuple[int, int], vocabulary: int) -> Scores:
    """The scores with the end tokens of teacher and student (`ends`) exchanged.

    Raises:
        ModelError: a likely token is none of the student's: rows of the teacher's head beyond its tokenizer.
    """
    ids_TC = found.ids_TC
    if int(ids_TC.max(initial=0)) >= vocabulary:
        raise ModelError(
            f"the teacher finds token {int(ids_TC.max())} likely, but the student has {vocabulary} tokens; lower "
            "top_k, or use a teacher whose head has the tokenizer's size"
        )
    mine, theirs = ends
    if mine != theirs:
        ids_TC = np.where(ids_TC == mine, theirs, np.where(ids_TC == theirs, mine, ids_TC)).astype(np.int32)
    return Scores(ids_TC, found.logprobs_TC)
