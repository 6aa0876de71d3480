"""Stores values of kept rationales as memory-mapped tables by question and perspective; the tables need not fit into memory.

Rationales come in the order of their questions, and those of one question are adjacent; the n-th question is row n of every table. A table
of features is a plain float32 file, written once in that order and read as a memory-mapped tensor. A batch reads its rows through the page
cache, which the system frees when memory is short.

Axes: N questions of the set, Q questions of a shard, K perspectives, B rows, F features.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.atomic import replace_file
from storage.errors import ArtifactError
from storage.mirror import DERIVED

Piece: TypeAlias = pa.Table | pa.RecordBatch
Places = tuple[NDArray[np.int64], NDArray[np.int64]]


def numbered(pieces: Iterable[Piece], names: Sequence[str], questions: int) -> Iterator[tuple[Piece, Places]]:
    """Each piece of a table of rationales with the question numbers and perspective numbers of its rows.

    Raises:
        ArtifactError: the number of questions is not the expected one.
    """
    number, last = -1, None
    order = {name: k for k, name in enumerate(names)}
    for piece in pieces:
        n_B = []
        for question_id in piece["question_id"].to_pylist():
            number, last = number + (question_id != last), question_id
            n_B.append(number)
        k_B = [order[name] for name in piece["perspective"].to_pylist()]
        yield piece, (np.array(n_B, np.int64), np.array(k_B, np.int64))
    if number + 1 != questions:
        raise ArtifactError(f"synthesis: found rationales of {number + 1} questions, expected {questions}; run synthesis again")


def values(piece: Piece, column: str) -> NDArray[np.float32]:
    """A column of numbers (B,), or of lists of F numbers (B, F)."""
    found = piece[column]
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    if pa.types.is_fixed_size_list(found.type):
        return np.asarray(found.flatten().to_numpy(), np.float32).reshape(len(found), found.type.list_size)
    return np.asarray(found.to_numpy(), np.float32)


def by_question(shard: pa.Table, names: Sequence[str]) -> tuple[list[str], Tensor, Tensor]:
    """A shard of features by question: ids, features (Q, K, F) with zeros for missing rationales, and the mask (Q, K) of existing ones."""
    ids = shard["question_id"].unique().to_pylist()
    ((_, places),) = numbered([shard], names, len(ids))
    features_BF = torch.tensor(values(shard, "feature_F"))
    features_QKF = torch.zeros(len(ids), len(names), features_BF.shape[1])
    mask_QK = torch.zeros(len(ids), len(names), dtype=torch.bool)
    features_QKF[places], mask_QK[places] = features_BF, True
    return ids, features_QKF, mask_QK


def derived(scratch: Path) -> Path:
    """The folder for files that can be recomputed from the inputs and the shards; temporary files of a killed process are removed."""
    folder = scratch / DERIVED
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    return folder


def blank(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap[Any, Any]:
    """A new memory-mapped file of zeros."""
    with path.open("wb") as file:
        # Reserve the space now: if the disk fills up later, writing to a mapped page kills the process without a message.
        os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r+", shape=shape)


def write_table(path: Path, pieces: Iterable[tuple[Piece, Places]], column: str, shape: tuple[int, ...]) -> None:
    """Write `column` as a float32 file of `shape` (N, K, ...), with zeros for missing rationales."""

    def write(temporary: Path) -> None:
        table = blank(temporary, shape, np.float32)
        for piece, places in pieces:
            table[places] = values(piece, column)
        table.flush()

    replace_file(path, write)


def mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """A file as a read-only memory-mapped tensor."""
    # Shared, because a private mapping counts as allocated memory and is refused if the file exceeds what is available.
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).reshape(shape)
