"""Measures the base student's losses and MetaNet's input features on the kept rationales of one chunk.

The base student runs in the precision of the training. Unless another encoder is configured, its one forward pass gives both. A forward
pass never spans two chunks. The values of a rationale therefore depend on its chunk only, not on where an earlier process stopped.

Axes: B rationales, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor
from transformers import AutoModel

from pipeline.config.models import Weights
from pipeline.config.synthesis import Synthesis
from pipeline.metanet.features import encode
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.prompt_rendering import pad_token
from pipeline.student.losses_and_states import losses_and_states
from pipeline.student.self_check import right_form
from pipeline.student.token_losses import DTYPES
from stages.synthesis.selection import Kept

RATIONALES: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("question_id", "perspective", "rationale", "prompt", "answer")),
        ("tokens", pa.int64()),
        ("base_loss", pa.float64()),
    ]
)


class Models(NamedTuple):
    """The base student, and the feature encoder with its tokenizer, if it is another model."""

    student: Any
    pad: int
    encoder: tuple[Any, Any] | None


def open_models(source: Weights, settings: Synthesis, precision: Literal["fp32", "bf16"]) -> Models:
    """Load both, on a GPU if available."""
    pad = pad_token(load_tokenizer(source))
    student = load_causal_model(source, DTYPES[precision])
    student.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    if settings.encoder is None:
        return Models(student, pad, None)
    other = settings.encoder
    encoder = AutoModel.from_pretrained(other.location, revision=other.revision, use_safetensors=True, trust_remote_code=False)
    return Models(student, pad, (encoder.to(student.device).eval(), load_tokenizer(other)))


def losses_and_features(
    models: Models, settings: Synthesis, hardest: float, kept: list[Kept], told: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """The base student's L_real on each rationale (B,) and its features (B, F), fp32 on the CPU; `told` as in `losses_and_states`.

    Raises:
        ModelError: the student has other losses in a batch than alone.
    """
    if not kept:
        width = models.student if models.encoder is None else models.encoder[0]
        return torch.zeros(0), torch.zeros(0, width.config.get_text_config().hidden_size)
    rows = [item.row for item in kept]
    by_question = [[item.row for item in mine] for _, mine in groupby(kept, key=lambda item: item.question_id)]
    questions = [number for number, mine in enumerate(by_question) for _ in mine]
    longest = max(by_question, key=lambda mine: max(len(row.tokens) for row in mine))
    form = right_form(models.student, longest, models.pad, "rows")
    losses_B, states_BF = losses_and_states(
        models.student, form, rows, questions, models.pad, settings.forward_rows, hardest, told
    )
    if models.encoder is None:
        return losses_B, states_BF
    texts = [item.prompt + item.text for item in kept]
    return losses_B, encode(*models.encoder, texts, settings.encoder_context, settings.forward_rows)


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
