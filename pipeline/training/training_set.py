"""The training artifact's tokens: the rationales of every question as token ids.

A `TrainingSet` stores all rows (`pipeline/student/batch.py`) in a few flat tensors, which may be memory-mapped files: a step reads only
the part of its own questions.

Axes: Q questions of a step, N questions of the set, K perspectives, F features, T tokens; 2 and 5 are sizes: two row kinds
(rationale row, context row) and the five fields of a row's address (`ADDRESS_FIELDS`). C the teacher's most likely tokens of a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from pipeline.errors import ModelError, NothingSurvives
from pipeline.grading.grade import conclusion
from pipeline.model_thoughts import THINK, Marks, ThoughtForm
from pipeline.prompt_rendering import end_token
from pipeline.rationales.conclusion import before_conclusion
from pipeline.rationales.thoughts import fitted
from pipeline.student.batch import TokenRow
from pipeline.student.table_view import TableView
from pipeline.student.teacher_divergence import TopTokens
from pipeline.text_tokens import text_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make_row(
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    rationale: str,
    answer: str,
    limit: int,
    where: str,
    marks: Marks = THINK,
) -> TokenRow:
    """Tokens of a prompt followed by one rationale; `marks` are those of the student's thoughts.

    Raises:
        ModelError: the row is longer than `limit` tokens.
    """
    encoded = text_tokens(tokenizer, rationale, marks)
    tokens = [*prompt, *encoded.ids, end_token(tokenizer)]
    if len(tokens) > limit:
        raise ModelError(
            f"{where}: {len(tokens)} tokens, over training.max_length {limit}; raise it or sample shorter rationales"
        )
    begin = len(rationale) - len(f"{answer}}}.")
    end = begin + len(answer)
    inside = [index for index, (left, right) in enumerate(encoded.ranges) if left < end and right > begin]
    first = len(prompt) + inside[0]
    return TokenRow(tokens, len(prompt), (first, len(prompt) + inside[-1] + 1))


def answer_row(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], answer: str, limit: int, where: str, form: ThoughtForm
) -> TokenRow:
    """The row of the second task (answer without rationale): `prompt` asks for the answer, and only the answer sentence follows."""
    return make_row(tokenizer, prompt, fitted(conclusion(answer), form), answer, limit, where, form.marks)


def context_row(
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    rationale: str,
    answer: str,
    limit: int,
    where: str,
    marks: Marks = THINK,
) -> TokenRow:
    """The row of a rationale without its last reasoning sentence, so that the answer is not already stated in its context."""
    return make_row(tokenizer, prompt, before_conclusion(rationale), answer, limit, where, marks)


ADDRESS_FIELDS: Final = 5
"""Length of a row's address `(offset, length, start, first, last)`, see `address_of`."""


def address_of(row: TokenRow, offset: int) -> tuple[int, int, int, int, int]:
    """The address of a row whose tokens start at `offset` of the flat tokens; length zero means that there is no row."""
    return offset, len(row.tokens), row.start, *row.answer


@dataclass(frozen=True)
class SoftTargetTable:
    """The teacher's most likely tokens at every trained token of every rationale: `ids_TC` and `logprobs_TC`, from row `offsets_NK` on."""

    ids_TC: Tensor
    logprobs_TC: Tensor
    offsets_NK: Tensor | TableView


@dataclass(frozen=True)
class TrainingSet:
    """All data that joint training reads, for N questions and K perspectives.

    `tokens_T` are the concatenated tokens of all rows. `addresses_NK25` are the addresses of each rationale's row (0) and context row (1).
    `answers_N5` are the addresses of the second task's rows, if any. `mask_NK` is False for missing rationales. `base_losses_NK` are the
    base student's losses. `soft` are the soft targets, if the loss has any.
    """

    tokens_T: Tensor
    addresses_NK25: Tensor | TableView
    features_NKF: Tensor | TableView
    mask_NK: Tensor
    base_losses_NK: Tensor
    pad: int
    answers_N5: Tensor | TableView | None = None
    soft: SoftTargetTable | None = None
    numbers_N: Tensor | None = None
    """Number of each question in the synthesis; None if they are all of it, in order."""

    def __len__(self) -> int:
        return len(self.mask_NK)

    def row(self, question: int, perspective: int) -> TokenRow:
        """The row of an existing rationale."""
        return self._row(self.addresses_NK25[question][perspective, 0])

    def context(self, question: int, perspective: int) -> TokenRow:
        """The context row of an existing rationale."""
        return self._row(self.addresses_NK25[question][perspective, 1])

    def answer(self, question: int) -> TokenRow:
        """The row of the second task."""
        assert self.answers_N5 is not None, "the second task has a weight, but its rows are missing"
        return self._row(self.answers_N5[question])

    def lengths(self, index_Q: Tensor) -> Tensor:
        """Trained tokens of each rationale (Q, K), fp32; zero where there is none."""
        address_QK5 = self.addresses_NK25[index_Q][:, :, 0]
        return (address_QK5[..., 1] - address_QK5[..., 2]).float()

    def soft_targets(self, rationales: Sequence[tuple[int, int]]) -> TopTokens:
        """Soft targets of the rationales (question, perspective), one after the other."""
        assert self.soft is not None, "the loss has soft targets, but they are missing"
        places = []
        for question, perspective in rationales:
            _, length, start, _, _ = self.addresses_NK25[question][perspective, 0].tolist()
            first = int(self.soft.offsets_NK[question][perspective])
            places.append(slice(first, first + length - start))
        return TopTokens(*(torch.cat([of[here] for here in places]) for of in (self.soft.ids_TC, self.soft.logprobs_TC)))

    def longest_rows(self) -> list[TokenRow]:
        """The rows of the question with the longest one, longest first; of questions with several rationales, if there are any."""
        usable_N = self.mask_NK.sum(-1) >= min(2, int(self.mask_NK.sum(-1).max()))
        longest, found = -1, 0
        for index_Q in torch.split(usable_N.nonzero()[:, 0], 4096):
            length_QK = self.addresses_NK25[index_Q][..., 0, 1] * self.mask_NK[index_Q]
            most = int(length_QK.max())
            if most > longest:
                longest, found = most, int(index_Q[length_QK.amax(-1).argmax()])
        rows = [self.row(found, k) for k in self.mask_NK[found].nonzero()[:, 0].tolist()]
        return sorted(rows, key=lambda row: -len(row.tokens))

    def _row(self, address_5: Tensor) -> TokenRow:
        offset, length, start, first, last = address_5.tolist()
        assert length, "the mask marks a rationale that has no row"
        return TokenRow(self.tokens_T[offset : offset + length].tolist(), start, (first, last))


def held_out(questions: int, share: float, seed: int) -> Tensor:
    """Mask (N,) of the questions held out from training: a seeded share, independent of the perspectives trained on."""
    out_N = torch.zeros(questions, dtype=torch.bool)
    out_N[torch.randperm(questions, generator=torch.Generator().manual_seed(seed))[: round(share * questions)]] = True
    return out_N


def training_subset(data: TrainingSet, wanted_K: Tensor, out_N: Tensor, least: int) -> TrainingSet:
    """The questions that are not held out and have a rationale in a wanted perspective, with these rationales only.

    Losses are copied; they are as small as the inertia state.

    Raises:
        NothingSurvives: fewer than `least` such questions remain, the number that one step takes.
    """
    mask_NK = data.mask_NK & wanted_K
    there_N = mask_NK.any(-1) & ~out_N
    if (found := int(there_N.sum())) < least:
        raise NothingSurvives(
            f"training: only {found} questions are not held out and have a rationale in one of the perspectives, fewer than "
            f"training.questions_per_step {least}; lower it or training.hold_out, or add training.perspectives"
        )
    index_N = there_N.nonzero()[:, 0]
    return replace(
        data,
        addresses_NK25=TableView(data.addresses_NK25, index_N),
        features_NKF=TableView(data.features_NKF, index_N),
        mask_NK=mask_NK[index_N],
        base_losses_NK=data.base_losses_NK[index_N],
        answers_N5=None if data.answers_N5 is None else TableView(data.answers_N5, index_N),
        numbers_N=index_N,
        soft=None if data.soft is None else replace(data.soft, offsets_NK=TableView(data.soft.offsets_NK, index_N)),
    )


@lru_cache(maxsize=2)
def _order(questions: int, epoch: int, seed: int) -> Tensor:
    """An epoch's permutation; cached, because computing it at every step would cost time proportional to the number of questions."""
    return torch.randperm(questions, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def questions_of_step(step: int, questions: int, per_step: int, seed: int) -> Tensor:
    """Indices (Q,) of the distinct questions of one optimiser step: a slice of its epoch's seeded permutation.

    Questions that do not fill a step at the end of an epoch are skipped in that epoch. A function of the step alone, so a resumed run needs
    no sampler state and all ranks agree. `questions` must be at least `per_step`.
    """
    epoch, place = divmod(step, questions // per_step)
    return _order(questions, epoch, seed)[place * per_step : (place + 1) * per_step].clone()
