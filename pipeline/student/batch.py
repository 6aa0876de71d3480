"""Token rows and padded batches of them.

A `TokenRow` is a prompt with a rationale and the positions that carry loss. `batch` pads rows on the right, which needs no attention mask
for a causal model, and lists the positions whose logits are needed, so logits are computed nowhere else.

Axes: B rows or lines, T tokens, P wanted positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.student.attention import RowGather


@dataclass(frozen=True)
class TokenRow:
    """Token ids; loss is computed on `tokens[start:]`; the answer's tokens are `tokens[answer[0]:answer[1]]`."""

    tokens: list[int]
    start: int
    answer: tuple[int, int]

    @property
    def answer_tokens(self) -> list[int]:
        """The tokens of the canonical answer inside its box."""
        return self.tokens[self.answer[0] : self.answer[1]]


class Batch(NamedTuple):
    """Rows as lines of tokens, and the positions whose logits are wanted.

    `tokens_BT` are token ids. Wanted position p belongs to row `row_P[p]` and predicts `labels_P[p]` from the hidden state at
    (`line_P[p]`, `column_P[p]`). Padded rows have one line each. Packed rows (`pipeline/student/shared_prefix_packing.py`) share lines;
    then `positions_BT` gives each token's position, and a token is visible to itself and to later tokens before its `ends_BT`. `reads`
    contains the same information per row.
    """

    tokens_BT: Tensor
    row_P: Tensor
    line_P: Tensor
    column_P: Tensor
    labels_P: Tensor
    positions_BT: Tensor | None = None
    ends_BT: Tensor | None = None
    reads: tuple[RowGather, ...] | None = None


def batch(rows: list[TokenRow], spans: list[tuple[int, int]], pad: int) -> Batch:
    """Pads `rows`; `spans[i]` is the token range of row i whose logits are wanted."""
    width = max(len(row.tokens) for row in rows)
    tokens_BT = torch.full((len(rows), width), pad)
    row: list[int] = []
    column: list[int] = []
    labels: list[int] = []
    for index, (item, (first, last)) in enumerate(zip(rows, spans, strict=True)):
        tokens_BT[index, : len(item.tokens)] = torch.tensor(item.tokens)
        row += [index] * (last - first)
        column += range(first - 1, last - 1)
        labels += item.tokens[first:last]
    row_P = torch.tensor(row)
    return Batch(tokens_BT, row_P, row_P, torch.tensor(column), torch.tensor(labels))


def rationale_spans(rows: list[TokenRow]) -> list[tuple[int, int]]:
    """The spans of complete rationales, including the end token."""
    return [(row.start, len(row.tokens)) for row in rows]
