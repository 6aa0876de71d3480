"""Measures the base student's losses and MetaNet's input features on the kept rationales of one chunk.

A forward pass never spans two chunks. The values of a rationale therefore depend on its chunk only, not on where an earlier process
stopped.

Axes: B rationales, F features.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor
from transformers import AutoModel

from pipeline.config.models import Weights
from pipeline.config.synthesis import Synthesis
from pipeline.metanet.features import encode
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.prompt_rendering import pad_token
from pipeline.student.self_check import right_form
from pipeline.student.token_losses import StudentLosses, measured_losses
from stages.synthesis.selection import Kept

RATIONALES: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("question_id", "perspective", "rationale", "prompt", "answer")),
        ("tokens", pa.int64()),
        ("base_loss", pa.float64()),
    ]
)


class Models(NamedTuple):
    """The base student, and the feature encoder with its tokenizer; by default the encoder is the student itself."""

    student: Any
    pad: int
    encoder: Any
    encoder_tokenizer: Any


def open_models(source: Weights, settings: Synthesis) -> Models:
    """Load both, on a GPU if available."""
    tokenizer = load_tokenizer(source)
    student = load_causal_model(source, "auto")
    student.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    pad = pad_token(tokenizer)
    if settings.encoder is None:
        return Models(student, pad, student, tokenizer)
    other = settings.encoder
    encoder = AutoModel.from_pretrained(other.location, revision=other.revision, use_safetensors=True, trust_remote_code=False)
    return Models(student, pad, encoder.to(student.device).eval(), load_tokenizer(other))


def losses_and_features(models: Models, settings: Synthesis, hardest: float, kept: list[Kept]) -> tuple[Tensor, Tensor]:
    """The base student's L_real on each rationale (B,) and its features (B, F), fp32 on the CPU.

    Raises:
        ModelError: the student has other losses in a batch than alone.
    """
    if not kept:
        return torch.zeros(0), torch.zeros(0, models.encoder.config.hidden_size)
    student, rows = models.student, [item.row for item in kept]
    form = right_form(student, sorted(rows, key=lambda row: -len(row.tokens)), models.pad, "none")
    model = StudentLosses(student, own_head=form.own_head)
    losses_B = measured_losses(model, rows, models.pad, student.device, settings.forward_rows, hardest)
    texts = [item.prompt + item.text for item in kept]
    features_BF = encode(models.encoder, models.encoder_tokenizer, texts, settings.encoder_context, settings.forward_rows)
    return losses_B, features_BF


def rationale_table(kept: list[Kept], losses_B: Tensor) -> pa.Table:
    """The rationales of one chunk with their losses."""
    columns = {
        "question_id": [item.question_id for item in kept],
        "perspective": [item.perspective for item in kept],
        "rationale": [item.text for item in kept],
        "prompt": [item.prompt for item in kept],
        "answer": [item.answer for item in kept],
        "tokens": [len(item.row.tokens) - item.row.start for item in kept],
        "base_loss": losses_B.tolist(),
    }
    return pa.table(columns, schema=RATIONALES)


def feature_table(kept: list[Kept], features_BF: Tensor) -> pa.Table:
    """The features of one chunk, in the same row order as its rationales."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(features_BF.reshape(-1).numpy(), pa.float32()), features_BF.shape[1])
    keys = {name: pa.array([getattr(item, name) for item in kept], pa.string()) for name in ("question_id", "perspective")}
    return pa.table({**keys, "feature_F": flat})
