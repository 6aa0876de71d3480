"""MetaNet's loss L_meta: the KL divergence between its preferences and the targets that the student's losses give.

Axes: Q questions of a step, K perspectives.
"""

from __future__ import annotations

import torch
from torch import Tensor


def meta_loss(scores_QK: Tensor, targets_QK: Tensor, temperature: float, direction: str) -> Tensor:
    """KL between π_τ(scores) and π_τ(targets), mean over questions.

    `prediction_first` is KL(π(s) ‖ π(u)), as the paper prints it; `target_first` is KL(π(u) ‖ π(s)), which recovers from a
    collapsed entry (our default).
    """
    log_s_QK = torch.log_softmax(scores_QK / temperature, dim=-1)
    log_u_QK = torch.log_softmax(targets_QK / temperature, dim=-1)
    # Masked entries are minus infinity on both sides. Fill them before the multiplication; otherwise their gradient is NaN.
    missing_QK = targets_QK.isneginf()
    log_s_QK, log_u_QK = log_s_QK.masked_fill(missing_QK, 0.0), log_u_QK.masked_fill(missing_QK, 0.0)
    first_QK, second_QK = (log_s_QK, log_u_QK) if direction == "prediction_first" else (log_u_QK, log_s_QK)
    terms_QK = (first_QK.exp() * (first_QK - second_QK)).masked_fill(missing_QK, 0.0)
    return terms_QK.sum(-1).mean()
