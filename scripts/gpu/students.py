"""Students of Qwen2.5's shapes with random weights, their training sets, and the arithmetic that a step needs.

Axes: B lines, T tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from pipeline.student import self_check
from pipeline.student.batch import Batch
from pipeline.training.training_set import TrainingSet
from stages.speed.workload import Lengths, make_set

PERSPECTIVES: Final = 8


class Shape(NamedTuple):
    """A student's shape, and a step for it: questions, and mean tokens of a prompt with one rationale."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    groups: int
    vocabulary: int
    questions: int
    tokens: int


SHAPES: Final = {
    "0.5b": Shape(896, 4864, 24, 14, 2, 151_936, 8, 512),
    "1.5b": Shape(1536, 8960, 28, 12, 2, 151_936, 4, 512),
    "tiny": Shape(64, 128, 2, 4, 2, 512, 2, 64),
}
PEAK: Final = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Peak bfloat16 FLOP/s without sparsity, from the vendors' data sheets."""
ATTENTION: Final = {"none": None, **self_check.ATTENTION}
"""Attention implementation of each packing; None is the model's own."""
NOWHERE: Final = Path("random weights")
"""The student's folder in a configuration whose student is built here."""


def peak_of(device: torch.device) -> float | None:
    """The card's peak bfloat16 FLOP/s; None if unknown."""
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return next((value for name, value in PEAK.items() if name in card), None)


def student_of(shape: Shape, attention: str | None, device: torch.device, dtype: torch.dtype) -> Any:
    """A student with random weights. Buffers that must be exact, such as the rotary frequencies, stay in fp32."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.groups, tie_word_embeddings=True, max_position_embeddings=32_768,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).train()


def copy_of(source: Any, shape: Shape, attention: str | None, device: torch.device, dtype: torch.dtype) -> Any:
    """A student with the weights of `source`, rounded to `dtype`; two devices would draw different ones from one seed."""
    student = student_of(shape, attention, device, dtype)
    student.load_state_dict(source.state_dict())
    return student


def set_of(shape: Shape, ratio: tuple[int, int], questions: int) -> TrainingSet:
    """A training set whose prompts and rationales have lengths in this ratio."""
    prompt, rationale = (round(shape.tokens * part / sum(ratio)) for part in ratio)
    return make_set(questions, PERSPECTIVES, Lengths(prompt, rationale), shape.vocabulary)


def operations(packed: Batch, shape: Shape) -> float:
    """FLOPs that a step needs, forward and backward: each shared token once, each pair that attends once, logits where wanted.

    `packed` is the step's batch in the packed form; its tokens see themselves at least, so padding is told by its end.
    """
    assert packed.positions_BT is not None and packed.reads is not None
    head = shape.hidden // shape.heads
    layer = 2 * shape.hidden * shape.hidden + 2 * shape.hidden * shape.groups * head + 3 * shape.hidden * shape.intermediate
    places = torch.cat([read.queries_RQ.flatten()[read.own_O] for read in packed.reads])
    pairs = int((packed.positions_BT.flatten()[places] + 1).sum())
    logits = 6 * shape.hidden * shape.vocabulary * len(packed.labels_P)
    return 6 * shape.layers * layer * len(places) + logits + 12 * shape.layers * shape.hidden * pairs
