"""Selection of rationales and their mixture weights (method, section 4).

I_dyn keeps k where p_k >= β·p_max with p = softmax(s/τ): on raw scores, as printed, the rule is not invariant to a shift and
is empty when all scores are negative (our choice). Guards: at least two rationales where two exist; a share ε spread evenly; the
temperature is raised until the effective number exp(H(α)) reaches its floor. α carries no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.config import Mixture

_DOUBLINGS = 20


class Weights(NamedTuple):
    """What one step trains on. `kept_QK` bool; `alpha_QK` sums to 1 per question; how often each guard acted."""

    kept_QK: Tensor
    alpha_QK: Tensor
    temperature_Q: Tensor
    widened_Q: Tensor


def effective_number(alpha_QK: Tensor) -> Tensor:
    """exp(H(α)) per question (Q): how many rationales the weights are worth."""
    entropy_Q: Tensor = torch.special.entr(alpha_QK).sum(-1)
    return entropy_Q.exp()


def _weights(scores_QK: Tensor, kept_QK: Tensor, temperature_Q1: Tensor, epsilon: float) -> Tensor:
    logits_QK = (scores_QK / temperature_Q1).masked_fill(~kept_QK, float("-inf"))
    even_QK = kept_QK / kept_QK.sum(-1, keepdim=True)
    return (1 - epsilon) * torch.softmax(logits_QK, -1) + epsilon * even_QK


def weigh(scores_QK: Tensor, mask_QK: Tensor, config: Mixture, temperature: float) -> Weights:
    """Select and weigh. `temperature` is τ of the scores; `config.temperature` is τ_student of the weights."""
    scores_QK = scores_QK.detach()
    if config.weights == "uniform":
        scores_QK = torch.zeros_like(scores_QK).masked_fill(~mask_QK, float("-inf"))
    p_QK = torch.softmax(scores_QK / temperature, -1)
    kept_QK = (p_QK >= config.beta * p_QK.max(-1, keepdim=True).values) & mask_QK
    widened_Q = (kept_QK.sum(-1) < 2) & (mask_QK.sum(-1) >= 2)
    # By score, not by p: far-off scores all have p = 0, and the second best must be a rationale that exists.
    top_Q2 = scores_QK.topk(min(2, p_QK.shape[-1]), dim=-1).indices
    best_QK = torch.zeros_like(kept_QK).scatter(-1, top_Q2, True)
    kept_QK = kept_QK | (best_QK & widened_Q[:, None] & mask_QK)

    temperature_Q1 = torch.full_like(p_QK[:, :1], config.temperature)
    floor_Q = kept_QK.sum(-1).clamp(max=config.min_effective).to(p_QK.dtype) * (1 - 1e-4)
    alpha_QK = _weights(scores_QK, kept_QK, temperature_Q1, config.epsilon)
    for _ in range(_DOUBLINGS):
        low_Q = effective_number(alpha_QK) < floor_Q
        if not bool(low_Q.any()):
            break
        temperature_Q1 = torch.where(low_Q[:, None], temperature_Q1 * 2, temperature_Q1)
        alpha_QK = _weights(scores_QK, kept_QK, temperature_Q1, config.epsilon)
    return Weights(kept_QK, alpha_QK, temperature_Q1[:, 0], widened_Q)
