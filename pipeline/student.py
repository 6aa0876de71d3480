"""The student as the objective sees it: what its tokens cost, without all logits at once; and its states, pooled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.objective import real_losses, token_losses
from pipeline.training_set import Batch, Row, batch, rationale_spans

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def dense_mask(ends_BT: Tensor) -> Tensor:
    """(B, T, T): whether a query (row) sees a key (column), from where that ends which follows from each key."""
    place_T = torch.arange(ends_BT.shape[1], device=ends_BT.device)
    return (place_T[None, None, :] <= place_T[None, :, None]) & (place_T[None, :, None] < ends_BT[:, None, :])


def block_mask(ends_BT: Tensor) -> BlockMask:
    """The same for FlexAttention, which computes no block that nobody sees."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends_BT[line, key])

    lines, width = ends_BT.shape
    return create_block_mask(sees, lines, None, width, width, device=ends_BT.device)


class StudentLosses(nn.Module):
    """Wraps a causal language model; its forward says how much each wanted token costs, and gives logits where they are asked for.

    Over a real vocabulary the logits of all wanted positions would be by far the largest tensor there is. So they are made a chunk at a
    time, and made again in the backward pass; `most` is how many numbers a chunk may have.
    """

    def __init__(self, student: Any, most: int = 1 << 26) -> None:
        super().__init__()
        self.student = student
        self.most = most

    def forward(
        self,
        tokens_BT: Tensor,
        line_P: Tensor,
        column_P: Tensor,
        labels_P: Tensor,
        asked_A: Tensor,
        positions_BT: Tensor | None = None,
        ends_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy (P,) at the wanted positions, fp32, and logits (A, V) at those of them that `asked_A` numbers."""
        more: dict[str, Any] = {}
        if positions_BT is not None and ends_BT is not None:
            more = {"attention_mask": self._mask(ends_BT), "position_ids": positions_BT}
        hidden_PD = self.student.base_model(input_ids=tokens_BT, use_cache=False, **more).last_hidden_state[line_P, column_P]
        size = max(1, self.most // self.student.config.vocab_size)
        if len(hidden_PD) <= size:
            logits_PV = self._logits(hidden_PD)
            return token_losses(logits_PV, labels_P), logits_PV[asked_A]
        chunks = zip(torch.split(hidden_PD, size), torch.split(labels_P, size), strict=True)
        losses_P = torch.cat([checkpoint(self._losses, *chunk, use_reentrant=False) for chunk in chunks])
        return losses_P, self._logits(hidden_PD[asked_A])

    def _mask(self, ends_BT: Tensor) -> Any:
        """Who sees whom in packed lines, as the student's attention takes it."""
        if self.student.config._attn_implementation == "flex_attention":
            return block_mask(ends_BT)
        dtype = self.student.get_input_embeddings().weight.dtype
        sees_BTT = dense_mask(ends_BT)
        return torch.zeros_like(sees_BTT, dtype=dtype).masked_fill(~sees_BTT, torch.finfo(dtype).min)[:, None]

    def _logits(self, hidden_PD: Tensor) -> Tensor:
        logits_PV: Tensor = self.student.get_output_embeddings()(hidden_PD)
        return logits_PV

    def _losses(self, hidden_PD: Tensor, labels_P: Tensor) -> Tensor:
        return token_losses(self._logits(hidden_PD), labels_P)


def losses_of(model: nn.Module, item: Batch, asked_A: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cross-entropy (P,) and logits (A, V) of a batch through `model` (a `StudentLosses`, possibly wrapped by DeepSpeed)."""
    wanted = (item.tokens_BT, item.line_P, item.column_P, item.labels_P, asked_A, item.positions_BT, item.ends_BT)
    found: tuple[Tensor, Tensor] = model(*(None if tensor is None else tensor.to(device) for tensor in wanted))
    return found


@torch.no_grad()
def measured_losses(
    model: nn.Module, rows: list[Row], pad: int, device: torch.device, rows_at_once: int, hardest: float
) -> Tensor:
    """L_real per rationale (rows,), fp32 on the CPU, without gradient."""
    losses = []
    for first in range(0, len(rows), rows_at_once):
        chunk = rows[first : first + rows_at_once]
        item = batch(chunk, rationale_spans(chunk), pad)
        tokens_P, _ = losses_of(model, item, torch.zeros(0, dtype=torch.long), device)
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
