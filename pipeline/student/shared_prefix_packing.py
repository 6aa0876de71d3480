"""Shared-prefix packing: tokens that the rationales of a question have in common are computed once.

The rows of a question (its prompt with one rationale each, and the same without the rationale's last sentence) are inserted into a trie.
Every node is one token after one prefix. It attends to its ancestors and itself, and its position is its depth, so its hidden state equals
the one in a separate row. With eight rationales behind one prompt, the prompt is computed once instead of sixteen times. Losses and
gradients equal those of padded rows (an invariant with a test).

The nodes of a trie are stored in depth-first order, so the descendants of a node are a contiguous range. `ends` stores where that range
ends: query q attends to key k exactly if k <= q < ends[k]. This one number per token is the whole mask, for any branching and for several
tries in one line. The same information per row is a batch's `reads`; `pipeline/student/attention.py` implements both. Tries are assigned
to lines by best-fit decreasing.

Axes: B lines of a batch, T tokens of a line, P wanted positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from pipeline.student.attention import Array, reads_of
from pipeline.student.batch import Batch, TokenRow


class _Branch(NamedTuple):
    """The part of a row in its group's trie: it shares `depth` tokens with row `parent`; parent -1 starts a new root."""

    parent: int
    depth: int


def _branches(tokens: Sequence[Array]) -> list[_Branch]:
    """For each row, the first of the earlier rows with which it shares the longest prefix."""
    found: list[_Branch] = []
    for number, mine in enumerate(tokens):
        common = [_common(mine, other) for other in tokens[:number]]
        most = max(common, default=0)
        found.append(_Branch(common.index(most) if most else -1, most))
    return found


def _common(left: Array, right: Array) -> int:
    """Length of the common prefix of two rows."""
    length = min(len(left), len(right))
    differs = left[:length] != right[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


class _Trie(NamedTuple):
    """Tokens of one group in depth-first order: token, depth and end of descendants per place, and each row's path of places.

    `known` is the number of leading tokens of each row that an earlier row has.
    """

    tokens: Array
    depths: Array
    ends: Array
    paths: list[Array]
    known: list[int]


def _trie(tokens: Sequence[Array]) -> _Trie:
    """Builds a trie: the tokens that a row adds are contiguous, followed by the rows that branch off it, deepest branch first."""
    branches = _branches(tokens)
    own = [len(mine) - branch.depth for mine, branch in zip(tokens, branches, strict=True)]
    leaving: dict[int, list[int]] = {}
    for number in sorted(range(len(tokens)), key=lambda row: -branches[row].depth):
        leaving.setdefault(branches[number].parent, []).append(number)
    sizes = list(own)
    for number in reversed(range(len(tokens))):  # a parent has a smaller number than its branches
        if branches[number].parent >= 0:
            sizes[branches[number].parent] += sizes[number]
    start = [0] * len(tokens)
    for parent in range(-1, len(tokens)):
        free = 0 if parent < 0 else start[parent] + own[parent]
        for number in leaving.get(parent, ()):
            start[number] = free
            free += sizes[number]

    total, paths = sum(own), list[Array]()
    found, depths, ends = (np.empty(total, np.int64) for _ in range(3))
    for number, (mine, (parent, depth)) in enumerate(zip(tokens, branches, strict=True)):
        places = np.arange(start[number], start[number] + own[number])
        paths.append(places if parent < 0 else np.concatenate([paths[parent][:depth], places]))
        found[places], depths[places] = mine[depth:], np.arange(depth, len(mine))
        ends[places] = start[number] + own[number]
        for other in leaving.get(number, ()):
            ends[places[: branches[other].depth - depth]] += sizes[other]
    return _Trie(found, depths, ends, paths, [branch.depth for branch in branches])


def best_fit(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Best-fit decreasing: a (line, offset) for each size; a line is as long as the largest size."""
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


def packed(rows: list[TokenRow], spans: list[tuple[int, int]], groups: list[int], pad: int, by_rows: bool = True) -> Batch:
    """Like `pipeline.student.batch.batch`, but packs the rows of one group into one trie. `groups[i]` is the group of row i, numbered
    from 0.

    `by_rows` adds `reads`, which FlexAttention does not need.
    """
    members: list[list[int]] = [[] for _ in range(max(groups) + 1)]
    for number, group in enumerate(groups):
        members[group].append(number)
    tokens = [np.asarray(row.tokens) for row in rows]
    tries = [_trie([tokens[number] for number in mine]) for mine in members]
    where = best_fit([len(trie.tokens) for trie in tries])

    width = max(len(trie.tokens) for trie in tries)
    shape = (1 + max(line for line, _ in where), width)
    tokens_BT, positions_BT = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    ends_BT = torch.arange(1, width + 1).repeat(shape[0], 1)  # padding attends to itself; otherwise its softmax is empty
    paths, known = [np.empty(0, np.int64)] * len(rows), [0] * len(rows)
    for trie, mine, (line, first) in zip(tries, members, where, strict=True):
        here = slice(first, first + len(trie.tokens))
        tokens_BT[line, here], positions_BT[line, here] = torch.from_numpy(trie.tokens), torch.from_numpy(trie.depths)
        ends_BT[line, here] = torch.from_numpy(first + trie.ends)
        for number, path, had in zip(mine, trie.paths, trie.known, strict=True):
            paths[number], known[number] = line * width + first + path, had

    place_P = torch.from_numpy(np.concatenate([path[a - 1 : b - 1] for path, (a, b) in zip(paths, spans, strict=True)]))
    labels_P = torch.from_numpy(np.concatenate([mine[a:b] for mine, (a, b) in zip(tokens, spans, strict=True)]))
    row_P = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([last - first for first, last in spans]))
    reads = reads_of(list(zip(paths, known, strict=True))) if by_rows else None
    return Batch(tokens_BT, row_P, place_P // width, place_P % width, labels_P, positions_BT, ends_BT, reads)
