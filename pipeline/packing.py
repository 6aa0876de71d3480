"""Shared-prefix packing: what the rationales of a question have in common is computed once.

The rows of a question (its prompt with one rationale each, the same without the rationale's last sentence) are inserted into a trie.
Every node is a token after one prefix; it sees its ancestors and itself, at the position that is its depth, so its hidden state is
the one that it has in a row of its own. Of eight rationales behind one prompt the prompt is computed once instead of sixteen
times. Losses and gradients equal those of padded rows (a promise with a test).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.training_set import Batch, Row


class _Trie:
    """One group's tokens: per node its token, its depth and its parent (-1 at the root)."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def insert(self, tokens: Sequence[int]) -> list[int]:
        """The node of each token."""
        nodes, parent = [], -1
        for depth, token in enumerate(tokens):
            node = self._children.setdefault((parent, token), len(self.tokens))
            if node == len(self.tokens):
                self.tokens.append(token)
                self.depths.append(depth)
                self.parents.append(parent)
            nodes.append(node)
            parent = node
        return nodes

    def sees(self, width: int) -> NDArray[np.bool_]:
        """(width, width): whether a node (row) sees another (column). Padding sees itself, or its softmax would be empty."""
        sees = np.eye(width, dtype=np.bool_)
        for node, parent in enumerate(self.parents):  # a parent comes before its children
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees


def packed(rows: list[Row], spans: list[tuple[int, int]], groups: list[int], pad: int) -> Batch:
    """Like `pipeline.training_set.batch`, with the rows of one group in one line of the batch.

    `groups[i]` is the line of row i; lines are numbered from 0.
    """
    tries = [_Trie() for _ in range(max(groups) + 1)]
    line: list[int] = []
    row: list[int] = []
    column: list[int] = []
    labels: list[int] = []
    for index, (item, (first, last), group) in enumerate(zip(rows, spans, groups, strict=True)):
        nodes = tries[group].insert(item.tokens)
        line += [group] * (last - first)
        row += [index] * (last - first)
        column += nodes[first - 1 : last - 1]
        labels += item.tokens[first:last]
    width = max(len(trie.tokens) for trie in tries)
    tokens_BT = torch.full((len(tries), width), pad)
    positions_BT = torch.zeros((len(tries), width), dtype=torch.long)
    for index, trie in enumerate(tries):
        tokens_BT[index, : len(trie.tokens)] = torch.tensor(trie.tokens)
        positions_BT[index, : len(trie.tokens)] = torch.tensor(trie.depths)
    sees_BTT = torch.from_numpy(np.stack([trie.sees(width) for trie in tries]))
    return Batch(
        tokens_BT, torch.tensor(row), torch.tensor(line), torch.tensor(column), torch.tensor(labels), positions_BT, sees_BTT
    )
