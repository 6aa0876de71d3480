"""A training set in memory, from the rows and context rows of its rationales by question and perspective."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.student.batch import TokenRow
from pipeline.training.training_set import ADDRESS_FIELDS, SoftTargetTable, TrainingSet, address_of


def set_of(
    pairs: Mapping[tuple[int, int], tuple[TokenRow, TokenRow]],
    features_NKF: Tensor,
    mask_NK: Tensor,
    losses_NK: Tensor,
    pad: int,
    soft: SoftTargetTable | None = None,
) -> TrainingSet:
    tokens: list[int] = []
    addresses_NK25 = torch.zeros(*mask_NK.shape, 2, ADDRESS_FIELDS, dtype=torch.int64)
    for (n, k), pair in pairs.items():
        for number, row in enumerate(pair):
            addresses_NK25[n, k, number] = torch.tensor(address_of(row, len(tokens)))
            tokens += row.tokens
    return TrainingSet(torch.tensor(tokens), addresses_NK25, features_NKF, mask_NK, losses_NK, pad, soft=soft)
