"""The log-likelihood of a question's choices as continuations of one prompt, and what follows from it.

It measures what a model knows apart from whether it can state it: a small pre-trained model that never writes an answer in the asked form
may still find the right choice more likely than the others. Contexts, tokens and norms are those of lm-evaluation-harness 0.4.13:

- the context is plain text, with the special tokens that the tokenizer adds; a choice follows after a space. White space at the end of the
  context moves to the continuation. A choice's tokens are those that the text of both has beyond the context's own tokens;
- `sum`: the choice's log-likelihood (lm-eval's `acc`);
- `per_token`: divided by its tokens;
- `per_character`: divided by the characters of the choice, without the space (`acc_norm`; its `acc_bytes` divides by bytes);
- `unconditional`: minus the log-likelihood of the same text after the token that begins a text, or ends one if there is no such token
  (`acc_mutual_info`): a choice that is likely anywhere gains nothing by it.

The highest value is the model's choice, the first of equal ones. All K choices of an item are one packed line
(`shared_prefix_packing.py`), so that the prompt is computed once; where a model's packed rows are wrong (`self_check.py`), rows are
padded. A forward pass has one item, so that nothing depends on which items are in the same shard. The choices without the prompt have a
pass of their own: in one line with the others, their rounding errors are five times as large.

Axes: K choices of an item, P wanted positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import QuestionError
from pipeline.grading.choices import LETTERS
from pipeline.prompt_rendering import prompt_tokens
from pipeline.questions.question import Question
from pipeline.student.batch import TokenRow, batch, rationale_spans
from pipeline.student.objective import sum_by_row
from pipeline.student.self_check import Form
from pipeline.student.shared_prefix_packing import packed
from pipeline.student.token_losses import StudentLosses, losses_of
from pipeline.text_tokens import text_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NORMS: Final = ("sum", "per_token", "per_character", "unconditional")
"""The four verdicts of an item."""
_BOOLEAN: Final = ("yes", "no")


def choices_of(question: Question) -> tuple[str, ...]:
    """The texts whose likelihoods are compared: a question's choices, or yes and no; none for other answer types."""
    if question.answer_type == "boolean":
        return _BOOLEAN
    return question.choices if question.answer_type == "choice" and len(question.choices) > 1 else ()


def right_choice(question: Question) -> int:
    """The place of the correct one among `choices_of`."""
    return (_BOOLEAN if question.answer_type == "boolean" else LETTERS).index(question.answer)


class ChoiceRows(NamedTuple):
    """Token rows of an item: each choice after the prompt, and each choice after the neutral prefix."""

    conditional_K: list[TokenRow]
    unconditional_K: list[TokenRow]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.tokens) for row in self.conditional_K)


def _row(context: list[int], continuation: list[int]) -> TokenRow:
    tokens = [*context, *continuation]
    return TokenRow(tokens, len(context), (len(context), len(tokens)))


def continuation_row(tokenizer: PreTrainedTokenizerBase, context: str, continuation: str) -> TokenRow:
    """A continuation after a text, in lm-eval's tokens; loss is on the continuation."""
    kept = context.rstrip()
    before = prompt_tokens(tokenizer, kept, None)
    whole = prompt_tokens(tokenizer, context + continuation, None)
    return _row(before, whole[len(before) :])


def unconditional_row(tokenizer: PreTrainedTokenizerBase, continuation: str) -> TokenRow:
    """A continuation after the token that begins a text."""
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    tokens = text_tokens(tokenizer, continuation).ids
    return _row(tokens[:1], tokens[1:]) if tokens[:1] == [begin] else _row([int(begin)], tokens)


def choice_rows(tokenizer: PreTrainedTokenizerBase, context: str, question: Question) -> ChoiceRows:
    """The rows of one item.

    Raises:
        QuestionError: a choice that leaves no token to score.
    """
    said = [f" {choice}" for choice in choices_of(question)]
    found = ChoiceRows(
        [continuation_row(tokenizer, context, text) for text in said], [unconditional_row(tokenizer, text) for text in said]
    )
    for choice, *rows in zip(choices_of(question), *found, strict=True):
        if any(row.start == len(row.tokens) for row in rows):
            raise QuestionError(f"question {question.id!r}: its choice {choice!r} has no token of its own; correct the choice")
    return found


class Likelihoods(NamedTuple):
    """Log-likelihoods, tokens and characters of K choices."""

    sum_K: list[float]
    tokens_K: list[int]
    characters_K: list[int]
    unconditional_K: list[float]

    def scores(self, norm: str) -> NDArray[np.float64]:
        """The values (K,) that are compared under one of `NORMS`."""
        sum_K: NDArray[np.float64] = np.array(self.sum_K, np.float64)
        match norm:
            case "sum":
                pass
            case "per_token":
                sum_K /= np.array(self.tokens_K)
            case "per_character":
                sum_K /= np.maximum(self.characters_K, 1)
            case "unconditional":
                sum_K -= np.array(self.unconditional_K)
            case _:
                raise ValueError(f"unknown norm {norm!r}")
        return sum_K

    def choice(self, norm: str) -> int:
        """The model's choice under one of `NORMS`: the first of the highest."""
        return int(self.scores(norm).argmax())


def _sums(model: StudentLosses, form: Form, rows: list[TokenRow], pad: int) -> list[float]:
    """The log-likelihood of each row; the rows are one packed line, or padded."""
    spans, device = rationale_spans(rows), model.student.device
    by_rows = form.packing == "rows"
    item = batch(rows, spans, pad) if form.packing == "none" else packed(rows, spans, [0] * len(rows), pad, by_rows=by_rows)
    losses_P = losses_of(model, item, torch.zeros(0, dtype=torch.long), device).losses_P
    found: list[float] = (-sum_by_row(losses_P.double(), item.row_P.to(device), len(rows))).tolist()
    return found


@torch.no_grad()
def likelihoods(student: Any, form: Form, rows: ChoiceRows, choices: Sequence[str], pad: int) -> Likelihoods:
    """The likelihoods of an item's choices by a model in evaluation mode, in the form that its self-check found right."""
    model = StudentLosses(student, own_head=form.own_head)
    return Likelihoods(
        sum_K=_sums(model, form, rows.conditional_K, pad),
        tokens_K=[len(row.tokens) - row.start for row in rows.conditional_K],
        characters_K=[len(choice) for choice in choices],
        unconditional_K=_sums(model, form, rows.unconditional_K, pad),
    )
