"""The divergence between the teacher's and the student's distribution of the next token (soft targets).

Of the teacher only the C most likely tokens of a position are known. The remaining tokens are one more outcome, the tail, whose
probability is what is left. Both distributions are then over the same C + 1 outcomes, so a divergence is never negative, it is zero for
equal distributions, and it is at most that over the whole vocabulary (merging outcomes only loses information); with C = V it is that.
Sums over the C tokens without a tail, as they are often used, can be negative and reward a student for moving mass out of them.

The divergences are KL in both directions (Hinton et al. 2015, arXiv:1503.02531; Gu et al. 2023, arXiv:2306.08543) and the generalised
Jensen-Shannon divergence of GKD (Agarwal et al. 2023, arXiv:2306.13649, eq. 1).

Axes: P wanted positions, C the teacher's most likely tokens of a position, V vocabulary, O outcomes (C and the tail).
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from pipeline.config.soft_targets import Divergence

LEAST: Final = -100.0
"""Smallest log-probability of an outcome: an outcome that a teacher excludes gives no infinite loss."""
_STEEPEST: Final = 60.0
"""Largest difference between the log-probability of the whole and of the tail that the gradient follows; single precision ends near 87."""
_RESOLUTION: Final = 2.0**-24
"""Smallest probability of a teacher's tail: the difference between 1 and a sum in single precision says no less."""


class TopTokens(NamedTuple):
    """The teacher's most likely tokens at each position (P, C), and their log-probabilities (P, C)."""

    ids_PC: Tensor
    logprobs_PC: Tensor


def _teacher_outcomes(logprobs_PC: Tensor, vocabulary: int) -> Tensor:
    """The teacher's log-probabilities of all outcomes (P, O)."""
    logprobs_PC = logprobs_PC.float().clamp(min=LEAST)
    if logprobs_PC.shape[-1] == vocabulary:
        return logprobs_PC
    left_P1 = 1 - logprobs_PC.exp().sum(-1, keepdim=True)
    return torch.cat([logprobs_PC, left_P1.clamp(min=_RESOLUTION).log()], -1)


class _Outcomes(torch.autograd.Function):
    """Cross-entropy (P,) and the student's log-probabilities of the same outcomes (P, O), from one pass over the vocabulary each way.

    PyTorch's own operations would take about six more passes, most of them in the backward pass.
    """

    @staticmethod
    def forward(context: Any, logits_PV: Tensor, labels_P: Tensor, ids_PC: Tensor) -> tuple[Tensor, Tensor]:
        single_PV = logits_PV.float()
        whole_P = single_PV.logsumexp(-1)
        losses_P = whole_P - single_PV.gather(-1, labels_P[:, None])[:, 0]
        outcomes_PO, rest_P = single_PV.gather(-1, ids_PC) - whole_P[:, None], whole_P
        if ids_PC.shape[-1] < logits_PV.shape[-1]:
            # Not 1 - Σ: near 1 that has no digits left, and its gradient neither.
            rest_P = single_PV.scatter(-1, ids_PC, -torch.inf).logsumexp(-1)
            outcomes_PO = torch.cat([outcomes_PO, (rest_P - whole_P)[:, None]], -1)
        context.save_for_backward(single_PV, labels_P, ids_PC, whole_P, rest_P)
        context.dtype = logits_PV.dtype
        return losses_P, outcomes_PO

    @staticmethod
    def backward(context: Any, of_losses_P: Tensor, of_outcomes_PO: Tensor) -> tuple[Tensor, None, None]:
        single_PV, labels_P, ids_PC, whole_P, rest_P = context.saved_tensors
        known = ids_PC.shape[-1]
        scale_P, of_known_PC = of_losses_P - of_outcomes_PO.sum(-1), of_outcomes_PO[:, :known]
        gradient_PV = (single_PV - whole_P[:, None]).exp_()
        if known < single_PV.shape[-1]:
            # The tail's gradient goes to its tokens in proportion to their probabilities within it.
            tail_P = of_outcomes_PO[:, known] * (whole_P - rest_P).clamp(max=_STEEPEST).exp()
            of_known_PC = of_known_PC - tail_P[:, None] * gradient_PV.gather(-1, ids_PC)
            scale_P = scale_P + tail_P
        gradient_PV.mul_(scale_P[:, None]).scatter_add_(-1, ids_PC, of_known_PC)
        gradient_PV.scatter_add_(-1, labels_P[:, None], -of_losses_P[:, None])
        return gradient_PV.to(context.dtype), None, None


def _kl(from_PO: Tensor, to_PO: Tensor) -> Tensor:
    """KL(from ‖ to) in nats of log-distributions: (P,)."""
    return (from_PO.exp() * (from_PO - to_PO)).sum(-1)


def soft_losses(logits_PV: Tensor, labels_P: Tensor, teacher: TopTokens, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """Cross-entropy and divergence to the teacher at each position, both (P,), in nats, fp32, with gradient to the student's logits."""
    losses_P, student_PO = _Outcomes.apply(logits_PV, labels_P, teacher.ids_PC)  # type: ignore[no-untyped-call]
    teacher_PO = _teacher_outcomes(teacher.logprobs_PC, logits_PV.shape[-1])
    match divergence.kind:
        case "forward_kl":
            return losses_P, _kl(teacher_PO, student_PO)
        case "reverse_kl":
            return losses_P, _kl(student_PO, teacher_PO)
        case "jensen_shannon":
            beta = divergence.beta
            middle_PO = torch.logaddexp(teacher_PO + math.log(beta), student_PO + math.log1p(-beta))
            return losses_P, beta * _kl(teacher_PO, middle_PO) + (1 - beta) * _kl(student_PO, middle_PO)
