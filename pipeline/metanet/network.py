"""MetaNet, the teaching assistant: scores how well each rationale of a question suits the student at its current state.

Three stages [P]: feature alignment (a shared MLP in the paper, one layer by default), synergy by attention across perspectives, one
scoring head per perspective. A rationale's feature is
the mean-pooled hidden state of a frozen encoder over question and rationale (our choice). A perspective that a question lacks is masked in
every stage.

Axes: Q questions of a step, K perspectives, F features, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config.synthesis import MetaNetShape


class MetaNet(nn.Module):
    """Maps features (Q, K, F) to scores of K perspectives; with `shape.heads` = 0, without attention across perspectives (an ablation)."""

    def __init__(self, perspectives: int, features: int, shape: MetaNetShape) -> None:
        super().__init__()
        width, heads = shape.width, shape.heads
        self.align = (
            nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))
            if shape.alignment == "mlp"
            else nn.Linear(features, width)
        )
        self.perspective = nn.Parameter(torch.randn(perspectives, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.synergy = nn.MultiheadAttention(width, heads, batch_first=True) if heads else None
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, 1))
            for _ in range(perspectives)
        )

    def forward(self, features_QKF: Tensor, mask_QK: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (Q, K), minus infinity where `mask_QK` is False, and the hidden states after synergy (Q, K, D)."""
        hidden_QKD = self.align(features_QKF) + self.perspective
        normed_QKD = self.norm(hidden_QKD)
        if self.synergy is not None:
            mixed_QKD, _ = self.synergy(normed_QKD, normed_QKD, normed_QKD, key_padding_mask=~mask_QK, need_weights=False)
            hidden_QKD = hidden_QKD + mixed_QKD
        scores_QK = torch.cat([head(hidden_QKD[:, k]) for k, head in enumerate(self.heads)], dim=1)
        return scores_QK.masked_fill(~mask_QK, float("-inf")), hidden_QKD


def preferences(scores_QK: Tensor, temperature: float) -> Tensor:
    """π_τ(s): softmax of s/τ over perspectives; masked entries (minus infinity) get zero."""
    return torch.softmax(scores_QK / temperature, dim=-1)


def fused(scores_QK: Tensor, hidden_QKD: Tensor, temperature: float) -> Tensor:
    """Σ_k π_k h'_k, one vector (Q, D) per question."""
    return torch.einsum("qk,qkd->qd", preferences(scores_QK, temperature), hidden_QKD)
