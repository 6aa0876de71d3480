"""Warms up MetaNet on the measured features and losses, and writes its initial scores for every question.

Axes: N questions of the set, Q questions of a shard, K perspectives, F features, D hidden size.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import pyarrow as pa
import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.config.synthesis import Objective, Synthesis
from pipeline.metanet.network import MetaNet, fused, preferences
from pipeline.metanet.warm_up import warm_up
from stages.core.progress import Progress
from stages.shared.mapped_tables import by_question, derived, mapped, numbered, values, write_table
from stages.synthesis.question_index import QuestionIndex, look_up
from storage.artifact import Draft

SETS: Final = pa.schema(
    [
        ("question_id", pa.string()),
        ("pass_rate", pa.float64()),
        ("mask_K", pa.list_(pa.bool_())),
        ("score_K", pa.list_(pa.float32())),
        ("preference_K", pa.list_(pa.float32())),
        ("fused_D", pa.list_(pa.float32())),
    ]
)


class WarmUpResult(NamedTuple):
    """Result of the warm-up: MetaNet, L_meta of each epoch, and per perspective the number of rationales and the base's mean loss."""

    metanet: MetaNet
    losses: list[float]
    kept_K: list[int]
    base_loss_K: list[float | None]


def _losses(out: Draft, names: list[str], questions: int) -> tuple[Tensor, Tensor]:
    """The base student's losses (N, K), zero where a rationale is missing, and the mask (N, K) of existing rationales."""
    losses_NK = torch.zeros(questions, len(names))
    mask_NK = torch.zeros(questions, len(names), dtype=torch.bool)
    for piece, places in numbered(out.shards("rationales", ["question_id", "perspective", "base_loss"]), names, questions):
        losses_NK[places] = torch.tensor(values(piece, "base_loss"))
        mask_NK[places] = True
    return losses_NK, mask_NK


def _features(out: Draft, names: list[str], questions: int) -> Tensor:
    """Features (N, K, F), memory-mapped from a file in the draft's scratch folder."""
    width = next(out.shards("features", ["feature_F"])).schema.field("feature_F").type.list_size
    shape, path = (questions, len(names), width), derived(out.scratch) / "features.f32"
    if not path.exists():
        write_table(path, numbered(out.shards("features"), names, questions), "feature_F", shape)
    return mapped(path, shape)


def warm_up_metanet(
    settings: Synthesis, objective: Objective, names: list[str], questions: int, seed: int, out: Draft, progress: Progress
) -> WarmUpResult:
    """Warm up MetaNet on all measured rationales."""
    losses_NK, mask_NK = _losses(out, names, questions)
    features_NKF = _features(out, names, questions)
    progress.start("MetaNet's warm-up", settings.warm_up_epochs, "epochs")

    def said(loss: float) -> None:
        progress.advance(1, f"L_meta {loss:.4f}")

    warm = warm_up(settings, objective, features_NKF, losses_NK, mask_NK, seed, said)
    kept_K = mask_NK.sum(0).tolist()
    base_loss_K = [float(total / count) if count else None for total, count in zip(losses_NK.sum(0), kept_K, strict=True)]
    return WarmUpResult(warm.metanet, warm.losses, kept_K, base_loss_K)


def _thought(metanet: MetaNet, shard: pa.Table, names: list[str], temperature: float, lookup: QuestionIndex) -> pa.Table:
    """Scores, preferences and fused vectors of the questions of one shard of features."""
    ids, features_QKF, mask_QK = by_question(shard, names)
    with torch.no_grad():
        scores_QK, hidden_QKD = metanet(features_QKF, mask_QK)
        weights_QK, fused_QD = preferences(scores_QK, temperature), fused(scores_QK, hidden_QKD, temperature)
    columns = {
        "question_id": ids,
        "pass_rate": [item.pass_rate for item in look_up(lookup, ids).values()],
        "mask_K": mask_QK.tolist(),
        "score_K": [[score if math.isfinite(score) else None for score in row] for row in scores_QK.tolist()],
        "preference_K": weights_QK.tolist(),
        "fused_D": fused_QD.tolist(),
    }
    return pa.table(columns, schema=SETS)


def write_sets(metanet: MetaNet, names: list[str], temperature: float, lookup: QuestionIndex, out: Draft) -> None:
    """Write `sets-*.parquet` and `metanet.safetensors`."""
    out.clear("sets")
    for shard in out.shards("features"):
        if shard.num_rows:
            out.write_shard("sets", _thought(metanet, shard, names, temperature, lookup))
    out.write_bytes("metanet.safetensors", save({name: value.contiguous() for name, value in metanet.state_dict().items()}))
