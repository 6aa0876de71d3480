"""The student as the objective sees it: logits where they are wanted, and nowhere else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.objective import rationale_losses
from pipeline.training_set import Batch, Row, batch, rationale_spans


class StudentLogits(nn.Module):
    """Wraps a causal language model; its forward projects to the vocabulary only at the P wanted positions."""

    def __init__(self, student: Any) -> None:
        super().__init__()
        self.student = student

    def forward(self, tokens_BT: Tensor, row_P: Tensor, column_P: Tensor) -> Tensor:
        """Logits (P, V)."""
        hidden_BTD = self.student.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state
        logits_PV: Tensor = self.student.get_output_embeddings()(hidden_BTD[row_P, column_P])
        return logits_PV


def logits_of(model: nn.Module, item: Batch, device: torch.device) -> Tensor:
    """Logits (P, V) of a batch through `model` (a `StudentLogits`, possibly wrapped by DeepSpeed)."""
    logits_PV: Tensor = model(item.tokens_BT.to(device), item.row_P.to(device), item.column_P.to(device))
    return logits_PV


@torch.no_grad()
def measured_losses(model: nn.Module, rows: list[Row], pad: int, device: torch.device, rows_at_once: int) -> Tensor:
    """L_real per rationale (rows,), fp32 on the CPU, without gradient."""
    losses = []
    for first in range(0, len(rows), rows_at_once):
        chunk = rows[first : first + rows_at_once]
        item = batch(chunk, rationale_spans(chunk), pad)
        logits_PV = logits_of(model, item, device)
        losses.append(rationale_losses(logits_PV, item.labels_P.to(device), item.row_P.to(device), len(chunk)).cpu())
    return torch.cat(losses) if losses else torch.zeros(0)


@torch.no_grad()
def pooled_states(student: Any, rows: list[Row], pad: int, device: torch.device, rows_at_once: int) -> Tensor:
    """Mean-pooled last hidden states (rows, D) over question and rationale, fp32 on the CPU."""
    pooled = []
    for first in range(0, len(rows), rows_at_once):
        chunk = rows[first : first + rows_at_once]
        width = max(len(row.tokens) for row in chunk)
        tokens_BT = torch.tensor([row.tokens + [pad] * (width - len(row.tokens)) for row in chunk])
        real_BT = torch.arange(width)[None] < torch.tensor([len(row.tokens) for row in chunk])[:, None]
        hidden_BTD = student.base_model(
            input_ids=tokens_BT.to(device), attention_mask=real_BT.to(device), use_cache=False
        ).last_hidden_state.float()
        weight_BT1 = real_BT.to(device)[..., None]
        pooled.append(((hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)).cpu())
    return torch.cat(pooled)
