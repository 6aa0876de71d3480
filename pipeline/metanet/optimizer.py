"""MetaNet's optimiser, in the warm-up and in joint training: AdamW with weight decay on matrices, and gradient clipping (our choices).

Joint training starts with fresh moments; those of the warm-up are not kept. Its second moments stem from the first, steep epochs and
another batch size, and with a memory of a thousand updates they would slow down a whole run: an inertia that depends on the warm-up's
length and that nobody configured. MetaNet's rate rises with the student's during its linear warm-up, which covers the first updates.
"""

from __future__ import annotations

from typing import Final

import torch

from pipeline.metanet.network import MetaNet
from pipeline.parameter_groups import parameter_groups

WEIGHT_DECAY: Final = 0.01
"""On matrices; biases, norms and the perspective embedding have none."""
CLIP: Final = 1.0
"""Largest global norm of the gradient of one update, the student's default."""


def metanet_optimizer(metanet: MetaNet, rate: float) -> torch.optim.Optimizer:
    """A new optimiser of all of MetaNet's parameters."""
    return torch.optim.AdamW(parameter_groups(metanet, WEIGHT_DECAY, [metanet.perspective]), lr=rate)


def update(metanet: MetaNet, optimizer: torch.optim.Optimizer) -> None:
    """One optimiser step on the accumulated gradient, which is clipped and then cleared."""
    torch.nn.utils.clip_grad_norm_(metanet.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()
