"""Assembles one micro-batch of questions, and reads from its forward pass what the student's loss needs.

A micro-batch has three kinds of rows, in this order: the kept rationales; the rows of the answer-only task, if it has a weight; the
context rows, from which L_cons reads the answer before the rationale states it. `MicroBatch` keeps the indices of each kind, so that the
loss sees tensors over rationales and questions only.

Axes: Q questions of a step, K perspectives, B kept rationales of the micro-batch, R rows that are trained on, P wanted positions, J
positions with soft targets, A answer positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.config.soft_targets import Divergence
from pipeline.config.training import Training
from pipeline.student.batch import Batch, TokenRow, batch, rationale_spans
from pipeline.student.objective import rationale_losses, real_losses
from pipeline.student.shared_prefix_packing import packed
from pipeline.student.teacher_divergence import TopTokens
from pipeline.student.token_losses import losses_of
from pipeline.training.student_engine import StudentEngine
from pipeline.training.training_set import TrainingSet


class AnswerPositions(NamedTuple):
    """One question's kept rationales whose answers have the same tokens, by their numbers b, and the positions p of each answer."""

    rationales: list[int]
    positions: list[range]


class OwnText(NamedTuple):
    """A text that the student has written about a question q of the step, and what the teacher says of its tokens."""

    question: int
    row: TokenRow
    soft: TopTokens


class OwnBatch(NamedTuple):
    """Own texts as a batch, with their soft targets."""

    batch: Batch
    soft: TopTokens
    texts: int


@dataclass(frozen=True)
class MicroBatch:
    """Rows as a batch, and which row is which."""

    batch: Batch
    pairs: list[tuple[int, int]]
    """(question q of the step, perspective k) of each kept rationale b."""
    answer_rows: int
    """Number of rows of the answer-only task: one per question, or none."""
    answers: list[AnswerPositions]
    """Per question: where L_cons reads answer distributions; empty without that term."""
    soft: TopTokens | None = None
    """Soft targets at the positions of the kept rationales, which are the first wanted ones."""
    divergence: Divergence | None = None
    """The divergence to them."""
    own: OwnBatch | None = None
    """The student's own texts about the same questions."""

    @property
    def tokens(self) -> int:
        """Number of tokens that pass the network, with prompts and padding."""
        return self.batch.tokens_BT.numel() + (0 if self.own is None else self.own.batch.tokens_BT.numel())

    @property
    def left_out(self) -> int:
        """Number of kept rationales that have no part in L_cons, because they spell their answer otherwise."""
        return len(self.pairs) - sum(len(answer.rationales) for answer in self.answers) if self.answers else 0


class MicroBatchLosses(NamedTuple):
    """What the student's forward pass says of a micro-batch."""

    losses_B: Tensor
    """Mean cross-entropy of each kept rationale."""
    answer_losses_Q: Tensor
    """Mean cross-entropy of each answer-only row; empty without that task."""
    real_B: Tensor
    """L_real of each kept rationale, without gradient."""
    soft_B: Tensor | None
    """Mean divergence to the teacher on each kept rationale, if there are soft targets."""
    answer_logits: list[Tensor]
    """Per question: logits at the answer positions of its agreeing rationales, each (rationales, A, V)."""
    tokens: int
    """Number of trained tokens."""


def together(
    data: TrainingSet, packing: str, rows: list[TokenRow], spans: list[tuple[int, int]], questions: list[int]
) -> Batch:
    """Rows as a batch, padded, or packed by question; `questions[i]` is the question of row i."""
    if packing == "none":
        return batch(rows, spans, data.pad)
    number = {question: index for index, question in enumerate(dict.fromkeys(questions))}
    groups = [number[question] for question in questions]
    return packed(rows, spans, groups, data.pad, by_rows=packing == "rows")


def assemble(data: TrainingSet, config: Training, index_Q: Tensor, kept_QK: Tensor, local: range) -> MicroBatch:
    """The micro-batch of the step's questions with numbers `local`."""
    term = config.consistency
    pairs = [(q, k) for q in local for k in kept_QK[q].nonzero()[:, 0].tolist()]
    rationales = [data.row(int(index_Q[q]), k) for q, k in pairs]
    answer_only = [data.answer(int(index_Q[q])) for q in local] if config.answer_weight > 0 else []
    rows, questions = rationales + answer_only, [q for q, _ in pairs] + list(local)[: len(answer_only)]
    spans = rationale_spans(rows)
    if term.weight > 0 and term.answer_context == "before_conclusion":
        first_context = len(rows)
        contexts = [data.context(int(index_Q[q]), k) for q, k in pairs]
        rows, questions = rows + contexts, questions + [q for q, _ in pairs]
        spans = spans + [context.answer for context in contexts]
    else:
        first_context = 0  # the answer is read after the whole rationale
    begins = [0, *accumulate(last - first for first, last in spans)]

    def answer_of(b: int) -> range:
        row = first_context + b
        begin, (first, _), (low, high) = begins[row], spans[row], rows[row].answer
        return range(begin + low - first, begin + high - first)

    answers = []
    for q in local if term.weight > 0 else ():
        agreeing = _largest_group([(b, rationales[b].answer_tokens) for b, (question, _) in enumerate(pairs) if question == q])
        answers.append(AnswerPositions(agreeing, [answer_of(b) for b in agreeing]))
    soft = None if config.soft_targets is None else data.soft_targets([(int(index_Q[q]), k) for q, k in pairs])
    divergence = None if config.soft_targets is None else config.soft_targets.divergence
    return MicroBatch(
        together(data, config.packing, rows, spans, questions), pairs, len(answer_only), answers, soft, divergence
    )


def assemble_own(data: TrainingSet, packing: str, texts: Sequence[OwnText]) -> OwnBatch:
    """The student's own texts as a batch."""
    rows = [text.row for text in texts]
    batch = together(data, packing, rows, rationale_spans(rows), [text.question for text in texts])
    soft = TopTokens(*(torch.cat(parts) for parts in zip(*(text.soft for text in texts), strict=True)))
    return OwnBatch(batch, soft, len(rows))


def _largest_group(answers: list[tuple[int, list[int]]]) -> list[int]:
    """The rationales with the answer tokens that most of a question's have, the first such answer on a tie.

    L_cons compares answers position by position, so a rationale that spells its answer otherwise has no part in it.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for b, tokens in answers:
        groups.setdefault(tuple(tokens), []).append(b)
    return max(groups.values(), key=len)


def forward(engine: StudentEngine, micro: MicroBatch, hardest: float) -> MicroBatchLosses:
    """The student's forward pass on a micro-batch; `hardest` is the share of tokens that L_real averages."""
    device, rationales = engine.device, len(micro.pairs)
    wanted_A = torch.tensor([p for answer in micro.answers for span in answer.positions for p in span], dtype=torch.long)
    tokens_P, logits_AV, soft_J = losses_of(engine, micro.batch, wanted_A, device, micro.soft, micro.divergence)
    trained = rationales + micro.answer_rows
    # Context rows follow the trained ones: they only give answer distributions. Counted on the host, so that it need not wait.
    many = int((micro.batch.row_P < trained).sum())
    tokens_P, row_P = tokens_P[:many], micro.batch.row_P[:many].to(device, non_blocking=True)
    losses_R = rationale_losses(tokens_P, row_P, trained)
    real_R = real_losses(tokens_P.detach(), row_P, trained, hardest)
    sizes = [len(answer.positions) * len(answer.positions[0]) for answer in micro.answers]
    logits = zip(torch.split(logits_AV, sizes), micro.answers, strict=True) if sizes else ()
    return MicroBatchLosses(
        losses_R[:rationales],
        losses_R[rationales:],
        real_R[:rationales],
        None if micro.soft is None else rationale_losses(soft_J, row_P[: len(soft_J)], rationales),
        [part_AV.view(len(answer.positions), -1, part_AV.shape[-1]) for part_AV, answer in logits],
        many,
    )


def own_losses(engine: StudentEngine, own: OwnBatch, divergence: Divergence) -> Tensor:
    """Mean divergence to the teacher over the tokens of each own text (texts,), with gradient."""
    none = torch.zeros(0, dtype=torch.long)
    soft_J = losses_of(engine, own.batch, none, engine.device, own.soft, divergence).soft_J
    return rationale_losses(soft_J, own.batch.row_P.to(engine.device, non_blocking=True), own.texts)
