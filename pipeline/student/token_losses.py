"""Computes the student's token losses without materialising all logits, and its pooled hidden states.

Axes: B rows or lines, T tokens, P wanted positions, J wanted positions with a soft target, C the teacher's most likely tokens of a
position, A answer positions, V vocabulary, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any, Final, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.config.soft_targets import Divergence
from pipeline.student.attention import ROWS, RowGather, block_mask
from pipeline.student.batch import Batch, TokenRow, batch, rationale_spans
from pipeline.student.objective import real_losses, token_losses
from pipeline.student.teacher_divergence import TopTokens, soft_losses

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Torch's type of each precision of the training."""


class StudentLosses(nn.Module):
    """Wraps a causal language model; its forward returns the losses at each wanted position, and logits at selected ones.

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
        soft_ids_JC: Tensor | None = None,
        soft_logprobs_JC: Tensor | None = None,
        divergence: Divergence | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy (P,) at the wanted positions, fp32; logits (A, V) at the wanted positions with indices `asked_A`; and the
        divergence to the teacher (J,) at the first J wanted positions, fp32: those that have soft targets.
        """
        more: dict[str, Any] = {}
        if positions_BT is not None and ends_BT is not None:
            flex = self.student.config._attn_implementation != ROWS
            more = {"position_ids": positions_BT, **({"attention_mask": block_mask(ends_BT)} if flex else {"reads": reads})}
        if soft_ids_JC is None or soft_logprobs_JC is None:
            soft_ids_JC, soft_logprobs_JC = labels_P.new_zeros(0, 1), torch.zeros(0, 1, device=labels_P.device)
        divergence = divergence or Divergence()
        if self.own_head:
            logits_PV = own_logits(self.student, tokens_BT, line_P, column_P, more)
            losses_P, soft_J = self._read(logits_PV, labels_P, soft_ids_JC, soft_logprobs_JC, divergence)
            return losses_P, logits_PV[asked_A], soft_J
        hidden_PD = self.student.base_model(input_ids=tokens_BT, use_cache=False, **more).last_hidden_state[line_P, column_P]
        many = self._chunks(len(hidden_PD), hidden_PD.device)
        if many == 1:
            logits_PV = self._logits(hidden_PD)
            losses_P, soft_J = self._read(logits_PV, labels_P, soft_ids_JC, soft_logprobs_JC, divergence)
            return losses_P, logits_PV[asked_A], soft_J
        parts = [torch.tensor_split(whole, many) for whole in (hidden_PD, labels_P)]
        cuts = list(accumulate(len(part) for part in parts[0]))[:-1]
        parts += [torch.tensor_split(whole, cuts) for whole in (soft_ids_JC, soft_logprobs_JC)]
        found = [checkpoint(self._losses, *chunk, divergence, use_reentrant=False) for chunk in zip(*parts, strict=True)]
        losses_P, soft_J = (torch.cat(pieces) for pieces in zip(*found, strict=True))
        return losses_P, self._logits(hidden_PD[asked_A]), soft_J

    def _chunks(self, wanted: int, device: torch.device) -> int:
        """Number of chunks; identical on every rank under ZeRO-3, where each chunk gathers the head's weights from all ranks."""
        many: int = max(1, math.ceil(wanted / max(1, self.most // self.student.config.get_text_config().vocab_size)))
        if hasattr(self.student.get_output_embeddings().weight, "ds_id") and dist.get_world_size() > 1:
            every = torch.tensor(many, device=device)
            dist.all_reduce(every, dist.ReduceOp.MAX)
            many = int(every)
        return many

    def _logits(self, hidden_PD: Tensor) -> Tensor:
        logits_PV: Tensor = self.student.get_output_embeddings()(hidden_PD)
        return logits_PV

    def _read(
        self, logits_PV: Tensor, labels_P: Tensor, ids_JC: Tensor, logprobs_JC: Tensor, divergence: Divergence
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy (P,), and the divergence (J,) at the first J positions."""
        soft = len(ids_JC)
        if not soft:
            losses_P = token_losses(logits_PV, labels_P)
            return losses_P, losses_P[:0]
        teacher = TopTokens(ids_JC.long(), logprobs_JC)
        if soft == len(labels_P):
            return soft_losses(logits_PV, labels_P, teacher, divergence)
        losses_J, soft_J = soft_losses(logits_PV[:soft], labels_P[:soft], teacher, divergence)
        return torch.cat([losses_J, token_losses(logits_PV[soft:], labels_P[soft:])]), soft_J

    def _losses(
        self, hidden_PD: Tensor, labels_P: Tensor, ids_JC: Tensor, logprobs_JC: Tensor, divergence: Divergence
    ) -> tuple[Tensor, Tensor]:
        return self._read(self._logits(hidden_PD), labels_P, ids_JC, logprobs_JC, divergence)


def own_logits(model: Any, tokens_BT: Tensor, line_P: Tensor, column_P: Tensor, more: Mapping[str, Any]) -> Tensor:
    """Logits (P, V) at the wanted positions by a model's own forward, whose last projection gets these positions only."""

    def wanted(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return inputs[0][line_P, column_P][None], *inputs[1:]

    hook = model.get_output_embeddings().register_forward_pre_hook(wanted)
    try:
        logits_PV: Tensor = model(input_ids=tokens_BT, use_cache=False, **more).logits[0]
    finally:
        hook.remove()
    return logits_PV


class ReadLosses(NamedTuple):
    """What a forward pass of `StudentLosses` says."""

    losses_P: Tensor
    """Cross-entropy at the wanted positions."""
    logits_AV: Tensor
    """Logits at selected wanted positions."""
    soft_J: Tensor
    """Divergence to the teacher at the positions with soft targets, the first ones; empty without."""


def losses_of(
    model: Callable[..., Any],
    item: Batch,
    asked_A: Tensor,
    device: torch.device,
    soft: TopTokens | None = None,
    divergence: Divergence | None = None,
) -> ReadLosses:
    """The losses of a batch through `model` (a `StudentLosses`, possibly wrapped by DeepSpeed); `asked_A` are the positions whose logits
    are wanted, and `soft` the soft targets of the first positions, with their `divergence`.
    """
    wanted = (
        item.tokens_BT, item.line_P, item.column_P, item.labels_P, asked_A, item.positions_BT, item.ends_BT, item.reads,
        *(soft or (None, None)),
    )  # fmt: skip
    return ReadLosses(*model(*_each(wanted, partial(Tensor.to, device=device, non_blocking=True)), divergence))


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """The module in evaluation mode for a while: dropout or router noise would be a part of what is measured."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


N = TypeVar("N", Batch, TopTokens)


def pinned(item: N) -> N:
    """A batch, or its soft targets, in page-locked memory, from which a GPU copies while the host goes on."""
    found: N = _each(item, Tensor.pin_memory)
    return found


def _each(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Changes a tensor, or every tensor of nested tuples."""
    if isinstance(part, tuple):
        changed = (_each(item, change) for item in part)
        return type(part)(*changed) if isinstance(part, (Batch, RowGather, TopTokens)) else tuple(changed)
    return None if part is None else change(part)


@torch.no_grad()
def measure_batch(model: Callable[..., Any], item: Batch, rows: int, device: torch.device, hardest: float) -> Tensor:
    """L_real of each row of a batch (rows,), fp32 on the device, without gradient."""
    tokens_P = losses_of(model, item, torch.zeros(0, dtype=torch.long), device).losses_P
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
