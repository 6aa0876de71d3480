"""A view of some questions' part of a larger table, without copying it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TableView:
    """Rows `index_N` of a table: looked up, not copied, so that all ranks keep sharing one memory-mapped file."""

    table: Tensor | TableView
    index_N: Tensor

    def __getitem__(self, index: int | Tensor) -> Tensor:
        return self.table[self.index_N[index]]

    @property
    def shape(self) -> torch.Size:
        """The shape that a copy would have."""
        return torch.Size((len(self.index_N), *self.table.shape[1:]))
