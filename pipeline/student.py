"""The student as the objective sees it, logits where they are wanted and nowhere else; and its states, pooled, for whoever studies them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.objective import real_losses, token_losses
from pipeline.training_set import Batch, Row, batch, rationale_spans


class StudentLogits(nn.Module):
    """Wraps a causal language model; its forward projects to the vocabulary only at the P wanted positions."""

    def __init__(self, student: Any) -> None:
        super().__init__()
        self.student = student

    def forward(
        self,
        tokens_BT: Tensor,
        line_P: Tensor,
        column_P: Tensor,
        positions_BT: Tensor | None = None,
        sees_BTT: Tensor | None = None,
    ) -> Tensor:
        """Logits (P, V)."""
        more: dict[str, Tensor] = {}
        if positions_BT is not None and sees_BTT is not None:
            dtype = self.student.get_input_embeddings().weight.dtype
            blocked_B1TT = torch.zeros(sees_BTT.shape, dtype=dtype, device=sees_BTT.device)[:, None]
            more["attention_mask"] = blocked_B1TT.masked_fill(~sees_BTT[:, None], torch.finfo(dtype).min)
            more["position_ids"] = positions_BT
        hidden_BTD = self.student.base_model(input_ids=tokens_BT, use_cache=False, **more).last_hidden_state
        logits_PV: Tensor = self.student.get_output_embeddings()(hidden_BTD[line_P, column_P])
        return logits_PV


def logits_of(model: nn.Module, item: Batch, device: torch.device) -> Tensor:
    """Logits (P, V) of a batch through `model` (a `StudentLogits`, possibly wrapped by DeepSpeed)."""
    wanted = (item.tokens_BT, item.line_P, item.column_P, item.positions_BT, item.sees_BTT)
    logits_PV: Tensor = model(*(None if tensor is None else tensor.to(device) for tensor in wanted))
    return logits_PV


@torch.no_grad()
def measured_losses(
    model: nn.Module, rows: list[Row], pad: int, device: torch.device, rows_at_once: int, hardest: float
) -> Tensor:
    """L_real per rationale (rows,), fp32 on the CPU, without gradient."""
    losses = []
    for first in range(0, len(rows), rows_at_once):
        chunk = rows[first : first + rows_at_once]
        item = batch(chunk, rationale_spans(chunk), pad)
        logits_PV = logits_of(model, item, device)
        tokens_P = token_losses(logits_PV, item.labels_P.to(device))
        losses.append(real_losses(tokens_P, item.row_P.to(device), len(chunk), hardest).cpu())
    return torch.cat(losses) if losses else torch.zeros(0)


def _padded(rows: list[Row], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, T) padded to the right, and where they are real."""
    width = max(len(row.tokens) for row in rows)
    tokens_BT = torch.tensor([row.tokens + [pad] * (width - len(row.tokens)) for row in rows])
    return tokens_BT, torch.arange(width)[None] < torch.tensor([len(row.tokens) for row in rows])[:, None]


@torch.no_grad()
def pooled_states(student: Any, rows: list[Row], pad: int, device: torch.device, rows_at_once: int) -> Tensor:
    """Mean-pooled last hidden states (rows, D) over question and rationale, fp32 on the CPU."""
    pooled = []
    for first in range(0, len(rows), rows_at_once):
        tokens_BT, real_BT = _padded(rows[first : first + rows_at_once], pad)
        hidden_BTD = student.base_model(
            input_ids=tokens_BT.to(device), attention_mask=real_BT.to(device), use_cache=False
        ).last_hidden_state.float()
        weight_BT1 = real_BT.to(device)[..., None]
        pooled.append(((hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)).cpu())
    return torch.cat(pooled)


@torch.no_grad()
def span_states(
    student: Any, rows: list[Row], spans: list[tuple[int, int]], pad: int, device: torch.device, rows_at_once: int
) -> Tensor:
    """Mean-pooled hidden states (rows, layers + 1, D) of every layer over each row's tokens of its span, fp32 on the CPU.

    What stands before the span is read but not pooled. Layer 0 are the embeddings, the last is after the final norm.
    """
    pooled = []
    for first in range(0, len(rows), rows_at_once):
        tokens_BT, real_BT = _padded(rows[first : first + rows_at_once], pad)
        ends_B2 = torch.tensor(spans[first : first + rows_at_once])
        place_T = torch.arange(tokens_BT.shape[1])
        inside_BT = (place_T >= ends_B2[:, :1]) & (place_T < ends_B2[:, 1:])
        hidden_states = student.base_model(
            input_ids=tokens_BT.to(device), attention_mask=real_BT.to(device), use_cache=False, output_hidden_states=True
        ).hidden_states
        weight_BT1 = inside_BT.to(device)[..., None]
        # A layer at a time, so that no copy of all of them in fp32 is needed.
        pooled.append(
            torch.stack([((layer.float() * weight_BT1).sum(1) / weight_BT1.sum(1)).cpu() for layer in hidden_states], 1)
        )
    return torch.cat(pooled)


def layer_states(student: Any, rows: list[Row], pad: int, device: torch.device, rows_at_once: int) -> Tensor:
    """`span_states` over the rationale's tokens alone: the end token is among them, the prompt is not."""
    return span_states(student, rows, rationale_spans(rows), pad, device, rows_at_once)
