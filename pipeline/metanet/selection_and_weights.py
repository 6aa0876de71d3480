"""Selects rationales and computes their mixture weights (method, section 4).

I_dyn keeps k where p_k >= β·p_max with p = softmax(s/τ) (our choice). `selection: scores` is the rule as printed in the paper,
s_k >= β·s_max. It is not invariant to a shift, though MetaNet's loss is; and where all scores are negative (with β < 1) it keeps none, so
that the guard `min_kept` keeps the best, and `widened` counts the question.

Guards: at least two rationales where two exist; a share ε is distributed evenly; the temperature is doubled until the effective number
exp(H(α)) reaches its floor. α carries no gradient.

Control arms may invert or shuffle the scores first; a shuffled question keeps the entropy of its weights. Randomness is a function of the
step, so all ranks agree and a resumed run draws the same numbers.

Axes: Q questions of a step, K perspectives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.config.training import Mixture

_DOUBLINGS = 20


class MixtureWeights(NamedTuple):
    """Selection and weights of one step, per question and rationale.

    `kept_QK` is boolean; `alpha_QK` sums to 1 per question; `temperature_Q` is τ_student after the effective-number guard; `widened_Q` is
    True where the minimum-number guard acted.
    """

    kept_QK: Tensor
    alpha_QK: Tensor
    temperature_Q: Tensor
    widened_Q: Tensor


def effective_number(alpha_QK: Tensor) -> Tensor:
    """exp(H(α)) per question (Q): the effective number of rationales."""
    entropy_Q: Tensor = torch.special.entr(alpha_QK).sum(-1)
    return entropy_Q.exp()


def _weights(scores_QK: Tensor, kept_QK: Tensor, temperature_Q1: Tensor, epsilon: float) -> Tensor:
    logits_QK = (scores_QK / temperature_Q1).masked_fill(~kept_QK, float("-inf"))
    even_QK = kept_QK / kept_QK.sum(-1, keepdim=True)
    return (1 - epsilon) * torch.softmax(logits_QK, -1) + epsilon * even_QK


def _shuffled(values_QK: Tensor, mask_QK: Tensor, random: torch.Generator) -> Tensor:
    """Randomly permutes each question's values among its unmasked positions; masked positions are unchanged."""
    # Sorting random keys, masked positions last, gives the unmasked positions in random order; the targets are listed in plain order.
    keys_QK = torch.rand(values_QK.shape, generator=random) + 2.0 * ~mask_QK
    return values_QK.scatter(-1, (~mask_QK).long().argsort(dim=-1, stable=True), values_QK.gather(-1, keys_QK.argsort(-1)))


def _ordered(scores_QK: Tensor, mask_QK: Tensor, config: Mixture, random: torch.Generator) -> Tensor:
    if config.weights == "uniform":
        return torch.zeros_like(scores_QK).masked_fill(~mask_QK, float("-inf"))
    if config.order == "inverted":
        return (-scores_QK).masked_fill(~mask_QK, float("-inf"))
    return _shuffled(scores_QK, mask_QK, random) if config.order == "shuffled" else scores_QK


def select_and_weigh(
    scores_QK: Tensor, mask_QK: Tensor, config: Mixture, temperature: float, random: torch.Generator
) -> MixtureWeights:
    """Selects and weights rationales. `temperature` is τ of the scores; `config.temperature` is τ_student of the weights."""
    scores_QK = _ordered(scores_QK.detach(), mask_QK, config, random)
    p_QK = torch.softmax(scores_QK / temperature, -1)
    compared_QK = scores_QK if config.selection == "scores" else p_QK
    kept_QK = (compared_QK >= config.beta * compared_QK.max(-1, keepdim=True).values) & mask_QK
    least = min(config.min_kept, p_QK.shape[-1])
    widened_Q = kept_QK.sum(-1) < mask_QK.sum(-1).clamp(max=least)
    # Rank by score, not by p: p underflows to 0 for low scores, and the second best must be an existing rationale.
    best_QK = torch.zeros_like(kept_QK).scatter(-1, scores_QK.topk(least, dim=-1).indices, True)
    kept_QK = kept_QK | (best_QK & widened_Q[:, None] & mask_QK)
    if config.draw is not None:
        drawn_QK = torch.rand(kept_QK.shape, generator=random).masked_fill(~kept_QK, -1.0)
        few = min(config.draw, p_QK.shape[-1])
        kept_QK = kept_QK & torch.zeros_like(kept_QK).scatter(-1, drawn_QK.topk(few, dim=-1).indices, True)

    temperature_Q1 = torch.full_like(p_QK[:, :1], config.temperature)
    floor_Q = kept_QK.sum(-1).clamp(max=config.min_effective).to(p_QK.dtype) * (1 - 1e-4)
    alpha_QK = _weights(scores_QK, kept_QK, temperature_Q1, config.epsilon)
    for _ in range(_DOUBLINGS):
        low_Q = effective_number(alpha_QK) < floor_Q
        if not bool(low_Q.any()):
            break
        temperature_Q1 = torch.where(low_Q[:, None], temperature_Q1 * 2, temperature_Q1)
        alpha_QK = _weights(scores_QK, kept_QK, temperature_Q1, config.epsilon)
    return MixtureWeights(kept_QK, alpha_QK, temperature_Q1[:, 0], widened_Q)
