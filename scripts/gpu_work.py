"""Workload of `gpu_bench.py`: students of Qwen2.5's shapes with random weights, and random questions with eight rationales each."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

from transformers import Qwen2Config

from pipeline.student.batch import Batch, TokenRow, batch, rationale_spans
from pipeline.student.shared_prefix_packing import packed

PERSPECTIVES: Final = 8


class Shape(NamedTuple):
    """A student's shape."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    groups: int
    vocabulary: int


SHAPES: Final = {
    "0.5b": Shape(896, 4864, 24, 14, 2, 151_936),
    "1.5b": Shape(1536, 8960, 28, 12, 2, 151_936),
    "tiny": Shape(64, 128, 2, 4, 2, 512),
}


class Work(NamedTuple):
    """A step's rows; `questions` has the question number of each row."""

    rows: list[TokenRow]
    questions: list[int]

    @property
    def useful(self) -> int:
        """Number of tokens that carry loss."""
        return sum(len(row.tokens) - row.start for row in self.rows)


def make_work(questions: int, prompt: int, rationale: int, vocabulary: int, seed: int) -> Work:
    """Rows of random tokens; lengths vary by a quarter around their means."""
    draw = random.Random(seed)

    def text(mean: int) -> list[int]:
        return draw.choices(range(vocabulary), k=round(mean * draw.uniform(0.75, 1.25)))

    prompts = [text(prompt) for _ in range(questions)]
    rows = [
        TokenRow([*mine, *text(rationale)], len(mine), (len(mine), len(mine) + 1))
        for mine in prompts
        for _ in range(PERSPECTIVES)
    ]
    return Work(rows, [number for number in range(questions) for _ in range(PERSPECTIVES)])


def batch_of(form: str, work: Work) -> Batch:
    """A step's rows as a batch in one of the forms."""
    spans = rationale_spans(work.rows)
    return (
        batch(work.rows, spans, 0) if form == "padded" else packed(work.rows, spans, work.questions, 0, by_rows=form == "rows")
    )


def operations(work: Work, shape: Shape) -> float:
    """FLOPs of one step, forward and backward: each shared prefix token once, logits at loss positions only, each attending pair once."""
    head = shape.hidden // shape.heads
    body = shape.layers * (
        2 * shape.hidden * shape.hidden + 2 * shape.hidden * shape.groups * head + 3 * shape.hidden * shape.intermediate
    )
    prefixes = {number: row.start for row, number in zip(work.rows, work.questions, strict=True)}
    tails = [(row.start, len(row.tokens) - row.start) for row in work.rows]
    tokens = sum(prefixes.values()) + sum(tail for _, tail in tails)
    pairs = sum(start**2 / 2 for start in prefixes.values()) + sum(tail * start + tail**2 / 2 for start, tail in tails)
    return 6 * body * tokens + 6 * shape.hidden * shape.vocabulary * work.useful + 12 * shape.layers * shape.hidden * pairs


def config_of(shape: Shape) -> Qwen2Config:
    """The shape as a transformers configuration."""
    return Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.groups, tie_word_embeddings=True,
    )  # fmt: skip
