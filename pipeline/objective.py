"""The student's objective: L_total = L_SFT + λ·L_cons (method, section 5).

L_SFT is Σ_k α_k · (mean cross-entropy over the tokens of r_k); L_cons is Σ_{i<j} α_i α_j · JSD(P_i ‖ P_j), P_k being the
distribution over the vocabulary at each token of the answer, given rationale k. Both are per question; the batch loss is the mean over
the questions of the *global* batch, so that ranks and micro-batches do not change the gradient.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def rationale_losses(logits_PV: Tensor, labels_P: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """Mean cross-entropy per rationale (rows,), fp32, from logits at its P token positions; `row_P` says whose each is."""
    tokens_P = F.cross_entropy(logits_PV.float(), labels_P, reduction="none")
    total = torch.zeros(rows, dtype=tokens_P.dtype, device=tokens_P.device).index_add(0, row_P, tokens_P)
    count = torch.bincount(row_P, minlength=rows).clamp(min=1)
    return total / count


def jensen_shannon(left_AV: Tensor, right_AV: Tensor) -> Tensor:
    """JSD in nats between two sequences of log-distributions, averaged over their A positions; in [0, ln 2]."""
    log_middle_AV = torch.logaddexp(left_AV, right_AV) - math.log(2)
    left = (left_AV.exp() * (left_AV - log_middle_AV)).sum(-1)
    right = (right_AV.exp() * (right_AV - log_middle_AV)).sum(-1)
    return (0.5 * (left + right)).mean()


def consistency(answers_KAV: list[Tensor], alpha_K: Tensor) -> Tensor:
    """L_cons of one question from the logits (A, V) at its answer's tokens, one tensor per kept rationale."""
    log_KAV = [torch.log_softmax(logits_AV.float(), -1) for logits_AV in answers_KAV]
    loss = alpha_K.new_zeros(())
    for i in range(len(log_KAV)):
        for j in range(i + 1, len(log_KAV)):
            loss = loss + alpha_K[i] * alpha_K[j] * jensen_shannon(log_KAV[i], log_KAV[j])
    return loss
