"""Shared-prefix packing: what the rationales of a question have in common is computed once.

The rows of a question (its prompt with one rationale each, the same without the rationale's last sentence) are inserted into a trie.
Every node is a token after one prefix; it sees its ancestors and itself, at the position that is its depth, so its hidden state is
the one that it has in a row of its own. Of eight rationales behind one prompt the prompt is computed once instead of sixteen
times. Losses and gradients equal those of padded rows (a promise with a test).

A trie's nodes stand in depth-first order, so what follows from a node is a stretch that ends where the node says: a query q sees a key k
exactly if k <= q < ends[k]. That one number a token is the whole mask, of any branching and of several tries in one
line. The same said row by row are a batch's `reads`; `pipeline/attention.py` has an execution for each. Tries go into
lines by best fit, the largest first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.attention import reads_of
from pipeline.rows import Batch, Row


class _Trie:
    """One group's tokens in the order of insertion: per node its token, its depth and its parent (-1 at the root)."""

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

    def depth_first(self) -> tuple[list[int], list[int]]:
        """Of each node its place in depth-first order, and the place at which what follows from it ends."""
        sizes = [1] * len(self.tokens)
        for node in range(len(self.tokens) - 1, 0, -1):  # a parent comes before its children
            if self.parents[node] >= 0:
                sizes[self.parents[node]] += sizes[node]
        places: list[int] = []
        free = {-1: 0}  # by node, where its next child goes
        for node, parent in enumerate(self.parents):
            places.append(free[parent])
            free[parent] += sizes[node]
            free[node] = places[node] + 1
        return places, [place + size for place, size in zip(places, sizes, strict=True)]


def best_fit(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Where each goes, as (line, place in it), so that lines are no longer than the largest size: best fit, the largest first."""
    room: list[int] = []
    found = [(0, 0)] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        fits = [line for line, left in enumerate(room) if left >= sizes[index]]
        if not fits:
            room.append(max(sizes))
        line = min(fits, key=lambda number: room[number]) if fits else len(room) - 1
        found[index] = line, max(sizes) - room[line]
        room[line] -= sizes[index]
    return found


def packed(rows: list[Row], spans: list[tuple[int, int]], groups: list[int], pad: int) -> Batch:
    """Like `pipeline.training_set.batch`, with the rows of one group in one trie. `groups[i]` is that of row i, numbered from 0."""
    tries = [_Trie() for _ in range(max(groups) + 1)]
    nodes, had = [], []
    for row, group in zip(rows, groups, strict=True):
        before = len(tries[group].tokens)
        nodes.append(tries[group].insert(row.tokens))
        had.append(len(row.tokens) - (len(tries[group].tokens) - before))
    where = best_fit([len(trie.tokens) for trie in tries])
    orders = [trie.depth_first() for trie in tries]

    width = max(len(trie.tokens) for trie in tries)
    shape = (1 + max(line for line, _ in where), width)
    tokens_BT, positions_BT = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    ends_BT = torch.arange(1, width + 1).repeat(shape[0], 1)  # padding sees itself, or its softmax would be empty
    for trie, (line, first), (places, ends) in zip(tries, where, orders, strict=True):
        at = first + torch.tensor(places)
        tokens_BT[line, at] = torch.tensor(trie.tokens)
        positions_BT[line, at] = torch.tensor(trie.depths)
        ends_BT[line, at] = first + torch.tensor(ends)

    wanted = [last - first for first, last in spans]
    place: list[int] = []
    labels: list[int] = []
    paths: list[tuple[list[int], int]] = []
    for row, mine, known, (first, last), group in zip(rows, nodes, had, spans, groups, strict=True):
        line, offset = where[group]
        path = [line * width + offset + orders[group][0][node] for node in mine]
        paths.append((path, known))
        place += path[first - 1 : last - 1]
        labels += row.tokens[first:last]
    place_P, row_P = torch.tensor(place), torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(wanted))
    return Batch(
        tokens_BT, row_P, place_P // width, place_P % width, torch.tensor(labels), positions_BT, ends_BT, reads_of(paths)
    )
