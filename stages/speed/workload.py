"""Workload of the training benchmarks: a student of Qwen2's shape with random weights, and questions with rationales of random tokens.

Lengths vary by a quarter around their mean, as real texts do. MetaNet's features are random but contain the base losses, so that a warm-up
gives it a preference and a mixture something to select.

Axes: N questions of the set, K perspectives, F features; 2 row kinds (row, context row), 5 address fields.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final, NamedTuple

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.student.batch import TokenRow
from pipeline.student.teacher_divergence import TopTokens
from pipeline.training.training_set import ADDRESS_FIELDS, TrainingSet, address_of

FEATURES: Final = 64
_CONCLUSION: Final = 12
"""Tokens of the answer sentence."""


class Lengths(NamedTuple):
    """Mean tokens of a prompt and of a rationale."""

    prompt: int
    rationale: int


class StudentShape(NamedTuple):
    """A student's shape."""

    hidden: int
    layers: int
    vocabulary: int


SMALL: Final = StudentShape(192, 4, 4096)
"""For a CPU: large enough to be dominated by arithmetic, small enough to run in minutes."""


def make_student(folder: Path, shape: StudentShape) -> Path:
    """Write a student with random weights; returns its folder."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=4 * shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64, num_key_value_heads=shape.hidden // 64, max_position_embeddings=8192,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    return folder


def _spread(mean: int, draw: random.Random) -> int:
    return round(mean * draw.uniform(0.75, 1.25))


def make_set(questions: int, perspectives: int, lengths: Lengths, vocabulary: int) -> TrainingSet:
    """A training set with rationales of every perspective for every question."""
    draw = random.Random(0)
    generator = torch.Generator().manual_seed(0)
    tokens: list[int] = []
    addresses_NK25 = torch.zeros(questions, perspectives, 2, ADDRESS_FIELDS, dtype=torch.int64)
    for n in range(questions):
        prompt = draw.choices(range(2, vocabulary), k=_spread(lengths.prompt, draw))
        for k in range(perspectives):
            reasoning = draw.choices(range(2, vocabulary), k=_spread(lengths.rationale, draw) - _CONCLUSION)
            conclusion = draw.choices(range(2, vocabulary), k=_CONCLUSION)
            for number, text in enumerate((reasoning, reasoning[: -len(reasoning) // 5])):
                row = _row(prompt, [*text, *conclusion])
                addresses_NK25[n, k, number] = torch.tensor(address_of(row, len(tokens)))
                tokens += row.tokens
    losses_NK = torch.rand(questions, perspectives, generator=generator)
    features_NKF = torch.randn(questions, perspectives, FEATURES, generator=generator)
    features_NKF[..., 0] = losses_NK
    mask_NK = torch.ones(questions, perspectives, dtype=torch.bool)
    return TrainingSet(torch.tensor(tokens), addresses_NK25, features_NKF, mask_NK, losses_NK, 0)


def random_targets(positions: int, likely: int, vocabulary: int) -> TopTokens:
    """Random soft targets of some positions."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, vocabulary, (positions, 1), generator=generator)
    logprobs = torch.log_softmax(torch.randn(positions, 2 * likely, generator=generator), -1)[:, :likely]
    return TopTokens((first + torch.arange(likely)) % vocabulary, logprobs)


def _row(prompt: list[int], rationale: list[int]) -> TokenRow:
    """A row whose answer is the token before the last two."""
    tokens = [*prompt, *rationale]
    return TokenRow(tokens, len(prompt), (len(tokens) - 3, len(tokens) - 2))
