"""Attention for packed lines (`pipeline/student/shared_prefix_packing.py`), where a token attends only to the earlier tokens of its own
rows.

Two implementations:

- *rows*: everything except attention runs on the packed line. For attention, each row gathers its own keys and values, computes queries
  only for the tokens that no earlier row has computed, and writes their results back. The cost is that of padded rows minus the tokens that
  padded rows compute twice. It needs one mask per row and no mask of all tokens against all tokens. It runs wherever PyTorch's
  `scaled_dot_product_attention` runs, and is registered with transformers under its own name, so models need no change.
- *flex*: FlexAttention with a block mask that is derived from one number per token.

Axes: B lines of a batch, T tokens of a line, P all tokens of a batch (line after line), R rows that are processed together, Q query tokens
of a row, S key tokens of a row, O queries that are not padding, H query heads, G key and value heads, D head size, X heads times head size,
N and M blocks of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.errors import ModelError

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Array: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]

ROWS: Final = "mind_rows"
"""Name of the attention function in transformers. Without `reads` (padded rows) it is ordinary causal attention."""

BLOCK: Final = 128
"""FlexAttention's block size."""


class RowGather(NamedTuple):
    """Rows of similar length from a batch of lines. A place is the index of a token, counted over all lines.

    `queries_RQ` are the places of the tokens that a row is the first to contain, `keys_RS` those of all its tokens; both are padded with 0.
    `sees_R1QS` is True where a query attends to a key. `own_O` are the flat indices of the queries that are not padding.
    """

    queries_RQ: Tensor
    keys_RS: Tensor
    sees_R1QS: Tensor
    own_O: Tensor


def reads_of(paths: Sequence[tuple[Array, int]]) -> tuple[RowGather, ...]:
    """Builds `RowGather` from each row's places and the number of leading tokens that an earlier row has.

    Rows with similar numbers of queries are grouped.
    """
    alike: dict[int, list[tuple[Array, int]]] = {}
    for places, had in paths:
        if asks := len(places) - had:
            alike.setdefault(asks.bit_length(), []).append((places, had))
    return tuple(_reads(rows) for rows in alike.values())


def _reads(rows: Sequence[tuple[Array, int]]) -> RowGather:
    asks, longest = max(len(places) - had for places, had in rows), max(len(places) for places, _ in rows)
    queries_RQ, keys_RS = torch.zeros(len(rows), asks, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for number, (places, had) in enumerate(rows):
        queries_RQ[number, : len(places) - had] = torch.from_numpy(places[had:])
        keys_RS[number, : len(places)] = torch.from_numpy(places)
    had_R1 = torch.tensor([had for _, had in rows])[:, None]
    number_Q = torch.arange(asks)
    sees_RQS = torch.arange(longest) <= (had_R1 + number_Q)[:, :, None]
    own_RQ = number_Q < torch.tensor([len(places) for places, _ in rows])[:, None] - had_R1
    return RowGather(queries_RQ, keys_RS, sees_RQS[:, None], own_RQ.flatten().nonzero()[:, 0])


def _refuse_more(more: Mapping[str, Any], attention_mask: Tensor | None) -> None:
    """Rejects attention options that this implementation would otherwise silently ignore."""
    unknown = [said for name, said in (("softcap", "soft cap"), ("s_aux", "sink")) if more.get(name) is not None]
    if attention_mask is not None:
        unknown.append("mask of its own")
    if unknown:
        raise ModelError(f"the model's attention has a {', '.join(unknown)}; set training.packing to none")


def _in_window(sees_R1QS: Tensor, window: int | None) -> Tensor:
    """The pairs of which the key is among the query's last `window` tokens, itself included; a row's keys are in order."""
    if window is None or sees_R1QS.shape[-1] <= window:
        return sees_R1QS
    last_R1Q1 = sees_R1QS.sum(-1, keepdim=True) - 1
    return sees_R1QS & (torch.arange(sees_R1QS.shape[-1], device=sees_R1QS.device) > last_R1Q1 - window)


def rows_attention(
    module: Any,
    query_BHTD: Tensor,
    key_BGTD: Tensor,
    value_BGTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    reads: tuple[RowGather, ...] | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers: outputs (B, T, H, D) and no attention weights. G key heads serve H query heads.

    Values may have another size than keys; D is then the values' size.

    Raises:
        ModelError: the model's attention is not a plain softmax over earlier tokens, all or the last `sliding_window`.
    """
    if reads is None:
        if sliding_window is not None and query_BHTD.shape[2] > sliding_window:
            raise ModelError(
                f"rows of {query_BHTD.shape[2]} tokens, over the model's window of {sliding_window}, must be packed"
            )
        found: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query_BHTD, key_BGTD, value_BGTD, attention_mask, scaling=scaling, dropout=dropout, **more
        )
        return found
    _refuse_more(more, attention_mask)
    lines, heads, width, _ = query_BHTD.shape
    # Gathering rows from a table of places is an embedding lookup; embedding has an efficient backward pass for it.
    query_PX, key_PX, value_PX = (x.transpose(1, 2).flatten(2).flatten(0, 1) for x in (query_BHTD, key_BGTD, value_BGTD))
    result_PX = query_PX.new_zeros(len(query_PX), heads * value_BGTD.shape[-1])
    for read in reads:

        def rows(table_PX: Tensor, places_RS: Tensor, own_heads: int) -> Tensor:
            found_RSX: Tensor = F.embedding(places_RS, table_PX)
            found_RGSD = found_RSX.view(*places_RS.shape, own_heads, -1).transpose(1, 2)
            times = heads // own_heads
            # With a mask, fast GPU kernels need equal numbers of key and query heads; the fallback stores all attention scores.
            return found_RGSD.repeat_interleave(times, 1) if times > 1 and found_RGSD.is_cuda else found_RGSD

        keys_RGSD = rows(key_PX, read.keys_RS, key_BGTD.shape[1])
        answer_RHQD = F.scaled_dot_product_attention(
            rows(query_PX, read.queries_RQ, heads), keys_RGSD, rows(value_PX, read.keys_RS, value_BGTD.shape[1]),
            _in_window(read.sees_R1QS, sliding_window), dropout_p=dropout, scale=scaling,
            enable_gqa=keys_RGSD.shape[1] != heads,
        )  # fmt: skip
        answer_OX = answer_RHQD.transpose(1, 2).flatten(2).flatten(0, 1)[read.own_O]
        result_PX = result_PX.index_copy(0, read.queries_RQ.flatten()[read.own_O], answer_OX)
    return result_PX.view(lines, width, heads, -1), None


ALL_ATTENTION_FUNCTIONS.register(ROWS, rows_attention)


def block_mask(ends_BT: Tensor) -> BlockMask:
    """FlexAttention's block mask for packed lines; blocks without any visible pair are not computed.

    A key block is visible to the query blocks from itself up to the last of its ends. A block in which all pairs are visible needs no
    element-wise mask. No tensor over all pairs of tokens is created.
    """
    from torch.nn.attention.flex_attention import BlockMask

    def sees(line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends_BT[line, key])

    lines, width = ends_BT.shape
    many = -(-width // BLOCK)
    # Padding after the line's end is treated as visible to all in the minimum and to none in the maximum, so it changes neither.
    padded = [F.pad(ends_BT, (0, many * BLOCK - width), value=end).view(lines, 1, many, BLOCK) for end in (width, 0)]
    first_N = torch.arange(many, device=ends_BT.device) * BLOCK
    last_N = (first_N + BLOCK).clamp(max=width)
    every_BNM = (first_N[:, None] > first_N) & (padded[0].amin(-1) >= last_N[:, None])
    some_BNM = (first_N[:, None] >= first_N) & (padded[1].amax(-1) > first_N[:, None]) & ~every_BNM
    some, every = (_listed(blocks_BNM[:, None]) for blocks_BNM in (some_BNM, every_BNM))
    return BlockMask.from_kv_blocks(*some, *every, BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(width, width))


def _listed(blocks_B1NM: Tensor) -> tuple[Tensor, Tensor]:
    """Number of key blocks per query block, and the block numbers with the visible ones first (FlexAttention's format)."""
    return blocks_B1NM.sum(-1).int(), blocks_B1NM.int().sort(dim=-1, descending=True, stable=True).indices.int()


@contextmanager
def own_attention(student: Any) -> Iterator[None]:
    """The model's own attention inside the block, in which it writes: packed rows have no cache."""
    packed = student.config._attn_implementation
    if packed not in (ROWS, "flex_attention"):
        yield
        return
    student.set_attn_implementation("sdpa" if student._supports_sdpa else "eager")
    try:
        yield
    finally:
        student.set_attn_implementation(packed)
