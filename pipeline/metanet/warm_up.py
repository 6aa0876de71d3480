"""Warms up MetaNet on the base student's losses for a few epochs, before any joint step (method, section 3).

At this point every loss has been measured once, so inertia has nothing to filter and the losses are used as targets directly. Features may
be in a memory-mapped file: a mini-batch reads only its own questions. The order of mini-batches follows from the seed.

Axes: Q questions of a mini-batch, N questions of the set, K perspectives, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.config.synthesis import Objective, Synthesis
from pipeline.metanet.inertia import targets
from pipeline.metanet.loss import meta_loss
from pipeline.metanet.network import MetaNet
from pipeline.metanet.optimizer import metanet_optimizer, update
from pipeline.student.table_view import TableView


class Warm(NamedTuple):
    """The trained MetaNet and L_meta per epoch."""

    metanet: MetaNet
    losses: list[float]


def warm_up(
    config: Synthesis,
    objective: Objective,
    features_NKF: Tensor | TableView,
    losses_NK: Tensor,
    mask_NK: Tensor,
    seed: int,
    epoch_done: Callable[[float], None],
) -> Warm:
    """Trains a new MetaNet; `epoch_done` is called with L_meta after each epoch."""
    torch.set_num_threads(1)  # more threads slow down such a small network
    torch.manual_seed(seed)
    questions, perspectives, width = features_NKF.shape
    metanet = MetaNet(perspectives, width, config.metanet)
    optimizer = metanet_optimizer(metanet, config.warm_up_rate)
    wanted_NK = targets(losses_NK, mask_NK, objective.target)
    epochs = []
    for _ in range(config.warm_up_epochs):
        total = 0.0
        for index_Q in torch.split(torch.randperm(questions), config.batch_questions):
            scores_QK, _ = metanet(features_NKF[index_Q], mask_NK[index_Q])
            loss = meta_loss(scores_QK, wanted_NK[index_Q], objective.temperature, objective.direction)
            loss.backward()  # type: ignore[no-untyped-call]
            update(metanet, optimizer)
            total += float(loss.detach()) * len(index_Q)
        epochs.append(total / questions)
        epoch_done(epochs[-1])
    return Warm(metanet.eval(), epochs)
