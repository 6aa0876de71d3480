"""The training set of a trial: random tokens, with the longest rows that the configuration allows in every rank's micro-batch.

Every rationale of a rank's first question has `max_length` tokens; the other questions' rationales have half as many, as more than one
question of the largest size in a micro-batch is rare. All rationales of a question share prompt and answer, so that packing and L_cons have
their usual work.

Axes: N questions of the set, K perspectives, F features; 2 row kinds (row, context row), 5 address fields.
"""

from __future__ import annotations

import math
import random
from typing import Final

import torch

from pipeline.student.batch import TokenRow
from pipeline.training.training_set import ADDRESS_FIELDS, SoftTargetTable, TrainingSet, address_of, questions_of_step
from stages.training.stage_config import Config

FEATURES: Final = 64
_CONCLUSION: Final = 3
"""Tokens of the answer sentence: the answer, a full stop, the end."""
_LIKELY: Final = 32
"""Likely tokens of each soft target; the configuration of a training does not have their number."""


def _row(prompt: list[int], reasoning: list[int], conclusion: list[int]) -> TokenRow:
    tokens = [*prompt, *reasoning, *conclusion]
    answer = len(tokens) - _CONCLUSION
    return TokenRow(tokens, len(prompt), (answer, answer + 1))


def longest_rows(config: Config, vocabulary: int, pad: int) -> TrainingSet:
    """The questions of one step of `config.training`, with a rationale in every perspective that is trained on."""
    training, random_tokens = config.training, random.Random(config.seed)
    questions, perspectives = training.questions_per_step, len(config.perspectives)
    wanted_K = torch.tensor(
        [training.perspectives is None or item.name in training.perspectives for item in config.perspectives]
    )
    # The step permutes the questions; this finds those that come first on a rank.
    first = set(questions_of_step(0, questions, questions, config.seed)[:: questions // training.ranks].tolist())

    def some(count: int) -> list[int]:
        return random_tokens.choices(range(vocabulary), k=count)

    tokens: list[int] = []

    def placed(row: TokenRow) -> torch.Tensor:
        address_5 = torch.tensor(address_of(row, len(tokens)))
        tokens.extend(row.tokens)
        return address_5

    addresses_NK25 = torch.zeros(questions, perspectives, 2, ADDRESS_FIELDS, dtype=torch.int64)
    answers_N5 = torch.zeros(questions, ADDRESS_FIELDS, dtype=torch.int64)
    asked = training.max_length // 4
    for n in range(questions):
        length = training.max_length if n in first else max(training.max_length // 2, asked + _CONCLUSION + 1)
        prompt, conclusion = some(asked), some(_CONCLUSION)
        for k in wanted_K.nonzero()[:, 0].tolist():
            reasoning = some(length - asked - _CONCLUSION)
            addresses_NK25[n, k, 0] = placed(_row(prompt, reasoning, conclusion))
            addresses_NK25[n, k, 1] = placed(_row(prompt, reasoning[: len(reasoning) * 4 // 5], conclusion))
        answers_N5[n] = placed(_row(prompt, [], conclusion))
    generator = torch.Generator().manual_seed(config.seed)
    lengths_NK = addresses_NK25[:, :, 0, 1] - addresses_NK25[:, :, 0, 2]
    return TrainingSet(
        tokens_T=torch.tensor(tokens),
        addresses_NK25=addresses_NK25,
        features_NKF=torch.randn(questions, perspectives, FEATURES, generator=generator),
        mask_NK=wanted_K.expand(questions, -1).clone(),
        base_losses_NK=torch.rand(questions, perspectives, generator=generator),
        pad=pad,
        answers_N5=answers_N5,
        soft=None if training.soft_targets is None else _soft_targets(lengths_NK, vocabulary),
    )


def _soft_targets(lengths_NK: torch.Tensor, vocabulary: int) -> SoftTargetTable:
    """Soft targets for rationales of these lengths: the same few tokens everywhere, equally likely."""
    total, likely = int(lengths_NK.sum()), min(_LIKELY, vocabulary)
    offsets = lengths_NK.flatten().cumsum(0).roll(1)
    offsets[0] = 0
    logprobs = torch.full((total, likely), -math.log(likely + 1))
    return SoftTargetTable(torch.arange(likely).repeat(total, 1), logprobs, offsets.view(lengths_NK.shape))
