"""A training set in memory, from the rows and context rows of its rationales by question and perspective."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.student.batch import Row
from pipeline.training.training_set import PLACE, TrainingSet, place_of


def set_of(
    pairs: Mapping[tuple[int, int], tuple[Row, Row]], features_NKF: Tensor, mask_NK: Tensor, losses_NK: Tensor, pad: int
) -> TrainingSet:
    tokens: list[int] = []
    places_NKRP = torch.zeros(*mask_NK.shape, 2, PLACE, dtype=torch.int64)
    for (n, k), pair in pairs.items():
        for number, row in enumerate(pair):
            places_NKRP[n, k, number] = torch.tensor(place_of(row, len(tokens)))
            tokens += row.tokens
    return TrainingSet(torch.tensor(tokens), places_NKRP, features_NKF, mask_NK, losses_NK, pad)
