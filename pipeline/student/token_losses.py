"""Computes the student's token losses without materialising all logits, and its pooled hidden states.

Axes: B rows or lines, T tokens, P wanted positions, A answer positions, V vocabulary, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.student.attention import ROWS, RowGather, block_mask
from pipeline.student.batch import Batch, TokenRow, batch, rationale_spans
from pipeline.student.objective import real_losses, token_losses

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Torch's type of each precision of the training."""


class StudentLosses(nn.Module):
    """Wraps a causal language model; its forward returns the loss at each wanted position, and logits at selected ones.

    With a large vocabulary, the logits of all wanted positions would be by far the largest tensor. They are computed in chunks and
    recomputed in the backward pass; `most` is the maximum number of elements of a chunk.

    This needs a head that is a plain projection of the last hidden states. With `own_head` the model's whole forward computes the logits,
    in one piece: scales, caps and layers around its projection are applied by its own code (`pipeline/student/self_check.py` decides).
    """

    def __init__(self, student: Any, most: int = 1 << 26, own_head: bool = False) -> None:
        super().__init__()
        self.student = student
        self.most = most
        self.own_head = own_head

    def forward(
        self,
        tokens_BT: Tensor,
        line_P: Tensor,
        column_P: Tensor,
        labels_P: Tensor,
        asked_A: Tensor,
        positions_BT: Tensor | None = None,
        ends_BT: Tensor | None = None,
        reads: tuple[RowGather, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy (P,) at the wanted positions, fp32, and logits (A, V) at the wanted positions with indices `asked_A`."""
        more: dict[str, Any] = {}
        if positions_BT is not None and ends_BT is not None:
            flex = self.student.config._attn_implementation != ROWS
            more = {"position_ids": positions_BT, **({"attention_mask": block_mask(ends_BT)} if flex else {"reads": reads})}
        if self.own_head:
            logits_PV = self._own_logits(tokens_BT, line_P, column_P, more)
            return token_losses(logits_PV, labels_P), logits_PV[asked_A]
        hidden_PD = self.student.base_model(input_ids=tokens_BT, use_cache=False, **more).last_hidden_state[line_P, column_P]
        many = self._chunks(len(hidden_PD), hidden_PD.device)
        if many == 1:
            logits_PV = self._logits(hidden_PD)
            return token_losses(logits_PV, labels_P), logits_PV[asked_A]
        chunks = zip(torch.tensor_split(hidden_PD, many), torch.tensor_split(labels_P, many), strict=True)
        losses_P = torch.cat([checkpoint(self._losses, *chunk, use_reentrant=False) for chunk in chunks])
        return losses_P, self._logits(hidden_PD[asked_A])

    def _chunks(self, wanted: int, device: torch.device) -> int:
        """Number of chunks; identical on every rank under ZeRO-3, where each chunk gathers the head's weights from all ranks."""
        many: int = max(1, math.ceil(wanted / max(1, self.most // self.student.config.get_text_config().vocab_size)))
        if hasattr(self.student.get_output_embeddings().weight, "ds_id") and dist.get_world_size() > 1:
            every = torch.tensor(many, device=device)
            dist.all_reduce(every, dist.ReduceOp.MAX)
            many = int(every)
        return many

    def _own_logits(self, tokens_BT: Tensor, line_P: Tensor, column_P: Tensor, more: dict[str, Any]) -> Tensor:
        """Logits (P, V) by the model's own forward, in which the projection gets the wanted positions only."""

        def wanted(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return inputs[0][line_P, column_P][None], *inputs[1:]

        hook = self.student.get_output_embeddings().register_forward_pre_hook(wanted)
        try:
            logits_PV: Tensor = self.student(input_ids=tokens_BT, use_cache=False, **more).logits[0]
        finally:
            hook.remove()
        return logits_PV

    def _logits(self, hidden_PD: Tensor) -> Tensor:
        logits_PV: Tensor = self.student.get_output_embeddings()(hidden_PD)
        return logits_PV

    def _losses(self, hidden_PD: Tensor, labels_P: Tensor) -> Tensor:
        return token_losses(self._logits(hidden_PD), labels_P)


def losses_of(model: Callable[..., Any], item: Batch, asked_A: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cross-entropy (P,) and logits (A, V) of a batch through `model` (a `StudentLosses`, possibly wrapped by DeepSpeed)."""
    wanted = (item.tokens_BT, item.line_P, item.column_P, item.labels_P, asked_A, item.positions_BT, item.ends_BT, item.reads)
    found: tuple[Tensor, Tensor] = model(*_each(wanted, partial(Tensor.to, device=device, non_blocking=True)))
    return found


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """The module in evaluation mode for a while: dropout or router noise would be a part of what is measured."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def pinned(item: Batch) -> Batch:
    """The batch in page-locked memory, from which a GPU copies while the host goes on."""
    found: Batch = _each(item, Tensor.pin_memory)
    return found


def _each(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Changes a tensor, or every tensor of nested tuples."""
    if isinstance(part, tuple):
        changed = (_each(item, change) for item in part)
        return type(part)(*changed) if isinstance(part, (Batch, RowGather)) else tuple(changed)
    return None if part is None else change(part)


@torch.no_grad()
def measure_batch(model: Callable[..., Any], item: Batch, rows: int, device: torch.device, hardest: float) -> Tensor:
    """L_real of each row of a batch (rows,), fp32 on the device, without gradient."""
    tokens_P, _ = losses_of(model, item, torch.zeros(0, dtype=torch.long), device)
    return real_losses(tokens_P, item.row_P.to(device, non_blocking=True), rows, hardest)


def measured_losses(
    model: Callable[..., Any], rows: list[TokenRow], pad: int, device: torch.device, rows_at_once: int, hardest: float
) -> Tensor:
    """`measure_batch` for any number of padded rationales, in batches of `rows_at_once`; on the CPU."""
    losses = []
    for first in range(0, len(rows), rows_at_once):
        chunk = rows[first : first + rows_at_once]
        losses.append(measure_batch(model, batch(chunk, rationale_spans(chunk), pad), len(chunk), device, hardest).cpu())
    return torch.cat(losses) if losses else torch.zeros(0)
