"""The student's objective: L_total = L_SFT + λ·L_cons (method, section 5).

L_SFT is Σ_k α_k · (mean cross-entropy over the tokens of r_k). L_cons is Σ_{i<j} α_i α_j · JSD(P_i ‖ P_j), where P_k is the vocabulary
distribution at each answer token given rationale k. Both are per question. The batch loss is the mean over the questions of the *global*
batch, so the gradient does not depend on the split into ranks and micro-batches.

With soft targets, a share of each rationale's cross-entropy in L_SFT is replaced by its divergence to the teacher
(`teacher_divergence.py`), under the same weights α_k (our choice).

Axes: P wanted positions, A answer positions, V vocabulary, K perspectives (kept rationales of one question).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_ELEMENTS: Final = 1 << 24
"""Maximum number of elements of a tensor over pairs of rationales and the vocabulary."""


def token_losses(logits_PV: Tensor, labels_P: Tensor) -> Tensor:
    """Cross-entropy (P,), fp32, at each wanted position."""
    return F.cross_entropy(logits_PV.float(), labels_P, reduction="none")


def rationale_losses(tokens_P: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """Mean cross-entropy per rationale (rows,) from its token losses; `row_P` is the row of each token."""
    return sum_by_row(tokens_P, row_P, rows) / sum_by_row(torch.ones_like(tokens_P), row_P, rows).clamp(min=1)


def sum_by_row(values_P: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """Sum of the values of each row (rows,). Unlike `bincount` and boolean masks, it does not make the host wait for a GPU."""
    return values_P.new_zeros(rows).index_add(0, row_P, values_P)


@torch.no_grad()
def real_losses(tokens_P: Tensor, row_P: Tensor, rows: int, hardest: float) -> Tensor:
    """L_real per rationale (rows,): mean loss over the hardest share of its tokens, at least one; 1 uses all tokens, as in the paper.

    Any student soon learns most of a rationale's text. Whether it can follow depends on the few tokens where something must be computed;
    the mean over all tokens hides these (our choice).
    """
    if hardest == 1:
        return rationale_losses(tokens_P, row_P, rows)
    order_P = tokens_P.argsort(descending=True)
    order_P = order_P[row_P[order_P].argsort(stable=True)]  # by row, and within a row the hardest first
    row_P = row_P[order_P]
    count = sum_by_row(torch.ones_like(row_P), row_P, rows)
    rank_P = torch.arange(len(row_P), device=row_P.device) - (count.cumsum(0) - count)[row_P]
    few = (count * hardest).ceil().clamp(min=1)
    kept_P = (rank_P < few[row_P]).to(tokens_P.dtype)
    return sum_by_row(tokens_P[order_P] * kept_P, row_P, rows) / sum_by_row(kept_P, row_P, rows).clamp(min=1)


def jensen_shannon(left_AV: Tensor, right_AV: Tensor) -> Tensor:
    """JSD in nats between two sequences of log-distributions (..., A, V), averaged over the A positions: (...), in [0, ln 2]."""
    log_middle_AV = torch.logaddexp(left_AV, right_AV) - math.log(2)
    left = (left_AV.exp() * (left_AV - log_middle_AV)).sum(-1)
    right = (right_AV.exp() * (right_AV - log_middle_AV)).sum(-1)
    return (0.5 * (left + right)).mean(-1)


def symmetric_kl(left_AV: Tensor, right_AV: Tensor) -> Tensor:
    """KL(P ‖ Q) + KL(Q ‖ P) in nats between log-distributions (..., A, V), averaged over the A positions: (...) (as in MCC-KD)."""
    return ((left_AV.exp() - right_AV.exp()) * (left_AV - right_AV)).sum(-1).mean(-1)


def consistency(logits_KAV: Tensor, alpha_K: Tensor, divergence: str) -> Tensor:
    """L_cons of one question from the logits (K, A, V) at its answer's tokens given each kept rationale."""
    if len(logits_KAV) < 2:
        return alpha_K.new_zeros(())
    between = symmetric_kl if divergence == "symmetric_kl" else jensen_shannon
    log_KAV = torch.log_softmax(logits_KAV.float(), -1)
    left, right = torch.triu_indices(len(log_KAV), len(log_KAV), 1, device=log_KAV.device)

    def of(log_KAV: Tensor) -> Tensor:
        return (alpha_K[left] * alpha_K[right] * between(log_KAV[left], log_KAV[right])).sum()

    # With a large vocabulary the distributions of all pairs need much more memory than the logits. Process one position at a time then,
    # and recompute it in the backward pass.
    if len(left) * log_KAV[0].numel() <= MAX_ELEMENTS:
        return of(log_KAV)
    found: list[Tensor] = [checkpoint(of, position, use_reentrant=False) for position in torch.split(log_KAV, 1, dim=1)]
    return torch.stack(found).mean()


class StudentLoss(NamedTuple):
    """Sums over the questions of a micro-batch, each a scalar with gradient."""

    total: Tensor
    sft: Tensor
    consistency: Tensor
    rationales: Tensor
    """The part of L_SFT that is Σ α_k · (mean cross-entropy over the tokens of r_k)."""
    soft: Tensor
    """Σ α_k · (mean divergence to the teacher over the tokens of r_k); zero without soft targets."""


def student_loss(
    losses_B: Tensor,
    alpha_B: Tensor,
    answer_losses_Q: Tensor,
    answer_logits: Sequence[Tensor],
    answer_alpha: Sequence[Tensor],
    *,
    answer_weight: float,
    consistency_weight: float,
    divergence: str,
    soft_B: Tensor | None = None,
    soft_share: float = 0.0,
) -> StudentLoss:
    """L_total = L_SFT + λ·L_cons, summed over the questions of a micro-batch.

    `losses_B` and `alpha_B` are the loss and weight of each kept rationale, `answer_losses_Q` those of the answer-only task (empty if its
    weight is 0), `answer_logits` (K, A, V) and `answer_alpha` (K,) the answer logits and weights of each question's rationales, `soft_B`
    the divergence to the teacher on each rationale, which is `soft_share` of its loss.
    """
    rationales, soft = (alpha_B * losses_B).sum(), losses_B.new_zeros(())
    learnt = sft = (1 - answer_weight) * rationales + answer_weight * answer_losses_Q.sum()
    if soft_B is not None:
        soft = (alpha_B * soft_B).sum()
        learnt = sft + (1 - answer_weight) * soft_share * (soft - rationales)
    agreement = losses_B.new_zeros(())
    for logits_KAV, alpha_K in zip(answer_logits, answer_alpha, strict=True):
        agreement = agreement + consistency(logits_KAV, alpha_K, divergence)
    return StudentLoss(learnt + consistency_weight * agreement, sft, agreement, rationales, soft)
