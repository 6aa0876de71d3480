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

from pipeline.errors import ArtifactError
from storage.atomic import replace_file
from storage.mirror import DERIVED

Piece: TypeAlias = pa.Table | pa.RecordBatch
Places = tuple[NDArray[np.int64], NDArray[np.int64]]


def numbered(pieces: Iterable[Piece], names: Sequence[str], questions: int) -> Iterator[tuple[Piece, Places]]:
    """Each piece of a table of rationales with the question numbers and perspective numbers of its rows.

    Raises:
        ArtifactError: there are not as many questions as there should be.
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
        raise ArtifactError(f"synthesis: rationales of {number + 1} questions where {questions} were kept; run it again")


def values(piece: Piece, column: str) -> NDArray[np.float32]:
    """A column of numbers, or of lists of F numbers (B, F)."""
    found = piece[column]
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    if pa.types.is_fixed_size_list(found.type):
        return np.asarray(found.flatten().to_numpy(), np.float32).reshape(len(found), found.type.list_size)
    return np.asarray(found.to_numpy(), np.float32)


def by_question(shard: pa.Table, names: Sequence[str]) -> tuple[list[str], Tensor, Tensor]:
    """A shard of features by question: ids, features (Q, K, F) with zero where there is no such rationale, and where there is one."""
    ids = shard["question_id"].unique().to_pylist()
    ((_, places),) = numbered([shard], names, len(ids))
    features_BF = torch.tensor(values(shard, "feature_F"))
    features_QKF = torch.zeros(len(ids), len(names), features_BF.shape[1])
    mask_QK = torch.zeros(len(ids), len(names), dtype=torch.bool)
    features_QKF[places], mask_QK[places] = features_BF, True
    return ids, features_QKF, mask_QK


def derived(scratch: Path) -> Path:
    """The folder for what can be made again from the inputs and the shards, without what a killed process has left half-made."""
    folder = scratch / DERIVED
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    return folder


def blank(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap[Any, Any]:
    """A new file of zeros, to be filled."""
    with path.open("wb") as file:
        # All its room now, or an error: a mapped page that finds none on the disk later ends the process without a word.
        os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r+", shape=shape)


def write_table(path: Path, pieces: Iterable[tuple[Piece, Places]], column: str, shape: tuple[int, ...]) -> None:
    """`column` as a file of float32 of `shape` (N, K, ...), zero where a question has no such rationale."""

    def write(temporary: Path) -> None:
        table = blank(temporary, shape, np.float32)
        for piece, places in pieces:
            table[places] = values(piece, column)
        table.flush()

    replace_file(path, write)


def mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """A file as a tensor that is not to be written to."""
    # Shared, because a private mapping counts as memory that is asked for, and is refused where the file is larger than that.
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).reshape(shape)
