"""Inertia: the filter that makes MetaNet's target follow the student's loss slowly.

Per (question, perspective): an exponential mean m, bias-corrected by its number of visits n. Per perspective: a slower mean M. The two are
shrunk together: L̄ = M_k + n/(n+n0)·(m − M_k) (method, section 3, our choice). The state is plain tensors, identical on every rank, and
part of every checkpoint. It also keeps the last observed loss, which `optimizer` and `none` use unfiltered.

Axes: Q questions of a step, N questions of the set, K perspectives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.training import Inertia


@dataclass
class InertiaState:
    """Filter state for N questions and K perspectives; all tensors float32."""

    mean_NK: Tensor
    visits_NK: Tensor
    last_NK: Tensor
    mean_K: Tensor
    visits_K: Tensor

    @classmethod
    def empty(cls, questions: int, perspectives: int) -> InertiaState:
        """The state before any observation."""
        return cls(
            mean_NK=torch.zeros(questions, perspectives),
            visits_NK=torch.zeros(questions, perspectives),
            last_NK=torch.zeros(questions, perspectives),
            mean_K=torch.zeros(perspectives),
            visits_K=torch.zeros(perspectives),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The state as a dict, for a checkpoint."""
        return dict(vars(self))


def observe(state: InertiaState, config: Inertia, index_Q: Tensor, losses_QK: Tensor, seen_QK: Tensor) -> None:
    """Updates the state in place with the losses of one step. Entries where `seen_QK` is False are unchanged."""
    gamma, slow = config.gamma, config.gamma_perspective
    mean_QK = state.mean_NK[index_Q]
    state.mean_NK[index_Q] = torch.where(seen_QK, gamma * mean_QK + (1 - gamma) * losses_QK, mean_QK)
    state.last_NK[index_Q] = torch.where(seen_QK, losses_QK, state.last_NK[index_Q])
    state.visits_NK[index_Q] += seen_QK
    count_K = seen_QK.sum(0)
    average_K = torch.where(seen_QK, losses_QK, torch.zeros_like(losses_QK)).sum(0) / count_K.clamp(min=1)
    state.mean_K = torch.where(count_K > 0, slow * state.mean_K + (1 - slow) * average_K, state.mean_K)
    state.visits_K = state.visits_K + (count_K > 0)


def filtered(state: InertiaState, config: Inertia, index_Q: Tensor) -> Tensor:
    """L̄ (Q, K): the filtered loss for `ema`, otherwise the last observed loss."""
    if config.kind != "ema":
        return state.last_NK[index_Q]
    visits_QK = state.visits_NK[index_Q]
    slow_K = state.mean_K / (1 - config.gamma_perspective**state.visits_K).clamp(min=1e-6)
    fast_QK = state.mean_NK[index_Q] / (1 - config.gamma**visits_QK).clamp(min=1e-6)
    # Without visits and prior the share is 0/0. The question has no observation then, so the perspective's mean is used.
    share_QK = visits_QK / (visits_QK + config.prior_visits).clamp(min=1e-6)
    return slow_K + share_QK * (fast_QK - slow_K)


def targets(losses_QK: Tensor, mask_QK: Tensor, kind: str) -> Tensor:
    """u (Q, K): −L̄ as in the paper (`raw`), or −L̄ z-scored over the question's rationales; minus infinity where masked."""
    if kind == "raw":
        return (-losses_QK).masked_fill(~mask_QK, float("-inf"))
    count_Q1 = mask_QK.sum(-1, keepdim=True)
    zero = torch.zeros_like(losses_QK)
    mean_Q1 = torch.where(mask_QK, losses_QK, zero).sum(-1, keepdim=True) / count_Q1
    centred_QK = torch.where(mask_QK, losses_QK - mean_Q1, zero)
    deviation_Q1 = (centred_QK.square().sum(-1, keepdim=True) / count_Q1).sqrt()
    return (-centred_QK / (deviation_Q1 + 1e-3)).masked_fill(~mask_QK, float("-inf"))
