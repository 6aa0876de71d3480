"""Measures inertia: how many student steps a trained MetaNet needs to follow a step change of its targets (our choice).

The student's losses on each of some questions are reversed in order: the lowest becomes the highest. A copy of MetaNet is then trained on
these fixed losses with a copy of the training's optimiser, at its peak rate, with the training's questions per step and accumulation. The
lag is the number of student steps after which the mean total variation distance between π_τ(s) and its new target has fallen to 1/e of its
value before the change, i.e. MetaNet has gone 63 % of the way. A formula for plain gradient descent would say nothing about AdamW.

Axes: Q questions, K perspectives, F features.
"""

from __future__ import annotations

import copy
import math
from typing import Final

import torch
from torch import Tensor

from pipeline.config.synthesis import Objective
from pipeline.metanet.inertia import targets
from pipeline.metanet.loss import meta_loss
from pipeline.metanet.network import MetaNet, preferences
from pipeline.metanet.optimizer import metanet_optimizer, update

QUESTIONS: Final = 64
"""Largest number of questions that the lag is measured on."""
MOST_STEPS: Final = 5_000
"""Student steps after which the measurement ends."""


def reversed_losses(losses_QK: Tensor, mask_QK: Tensor) -> Tensor:
    """Each question's losses in reversed order: its lowest goes where its highest was; masked entries are unchanged."""
    sorted_QK, order_QK = losses_QK.masked_fill(~mask_QK, float("inf")).sort(-1)
    mirror_QK = mask_QK.sum(-1, keepdim=True) - 1 - torch.arange(losses_QK.shape[-1])
    turned_QK = torch.zeros_like(losses_QK).scatter(-1, order_QK, sorted_QK.gather(-1, mirror_QK.clamp(min=0)))
    return torch.where(mask_QK, turned_QK, losses_QK)


def distance(scores_QK: Tensor, targets_QK: Tensor, temperature: float) -> float:
    """Total variation distance between π_τ(s) and π_τ(u), mean over questions."""
    gap_QK = preferences(scores_QK, temperature) - preferences(targets_QK, temperature)
    return float(gap_QK.abs().sum(-1).mean() / 2)


def measured_lag(
    metanet: MetaNet, optimizer: torch.optim.Optimizer, rate: float, features_QKF: Tensor, mask_QK: Tensor, losses_QK: Tensor,
    objective: Objective, questions_per_step: int, accumulation: int,
) -> int | None:  # fmt: skip
    """The lag in student steps; None if it is more than `MOST_STEPS`. MetaNet and its optimiser are unchanged."""
    wanted_QK = targets(reversed_losses(losses_QK, mask_QK), mask_QK, objective.target)
    trained = copy.deepcopy(metanet).cpu()
    following = metanet_optimizer(trained, rate)
    following.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in following.param_groups:
        group["lr"] = rate

    def left() -> float:
        with torch.no_grad():
            return distance(trained(features_QKF, mask_QK)[0], wanted_QK, objective.temperature)

    random, goal = torch.Generator().manual_seed(0), left() / math.e
    for steps in range(accumulation, MOST_STEPS + 1, accumulation):
        # The questions of all steps of an update at once: the mean of their gradients is the same.
        index = torch.randperm(len(mask_QK), generator=random)[: questions_per_step * accumulation]
        scores_QK, _ = trained(features_QKF[index], mask_QK[index])
        meta_loss(scores_QK, wanted_QK[index], objective.temperature, objective.direction).backward()  # type: ignore[no-untyped-call]
        update(trained, following)
        if left() <= goal:
            return steps
    return None
