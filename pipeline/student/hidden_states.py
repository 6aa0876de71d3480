"""Hidden states of a student, mean-pooled: features for MetaNet and vectors for the latent analysis.

Axes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.student.batch import TokenRow, rationale_spans


def _padded(rows: list[TokenRow], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, T) padded to the right, and where they are real."""
    width = max(len(row.tokens) for row in rows)
    tokens_BT = torch.tensor([row.tokens + [pad] * (width - len(row.tokens)) for row in rows])
    return tokens_BT, torch.arange(width)[None] < torch.tensor([len(row.tokens) for row in rows])[:, None]


def body(model: Any) -> Any:
    """The part of a model that gives hidden states; of some causal models, the base model is the model itself."""
    return model.get_decoder() if model.base_model is model and model.get_output_embeddings() is not None else model.base_model


@torch.no_grad()
def pooled_states(student: Any, rows: list[TokenRow], pad: int, device: torch.device, rows_at_once: int) -> Tensor:
    """Mean-pooled last hidden states (rows, D) over question and rationale, fp32 on the CPU."""
    pooled = []
    for first in range(0, len(rows), rows_at_once):
        tokens_BT, real_BT = _padded(rows[first : first + rows_at_once], pad)
        hidden_BTD = body(student)(
            input_ids=tokens_BT.to(device), attention_mask=real_BT.to(device), use_cache=False
        ).last_hidden_state.float()
        weight_BT1 = real_BT.to(device)[..., None]
        pooled.append(((hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)).cpu())
    return torch.cat(pooled)


@torch.no_grad()
def span_states(
    student: Any, rows: list[TokenRow], spans: list[tuple[int, int]], pad: int, device: torch.device, rows_at_once: int
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
        hidden_states = body(student)(
            input_ids=tokens_BT.to(device), attention_mask=real_BT.to(device), use_cache=False, output_hidden_states=True
        ).hidden_states
        weight_BT1 = inside_BT.to(device)[..., None]
        # A layer at a time, so that no copy of all of them in fp32 is needed.
        pooled.append(
            torch.stack([((layer.float() * weight_BT1).sum(1) / weight_BT1.sum(1)).cpu() for layer in hidden_states], 1)
        )
    return torch.cat(pooled)


def layer_states(student: Any, rows: list[TokenRow], pad: int, device: torch.device, rows_at_once: int) -> Tensor:
    """`span_states` over the rationale's tokens alone: the end token is among them, the prompt is not."""
    return span_states(student, rows, rationale_spans(rows), pad, device, rows_at_once)
