"""The `synthesis` and `objective` sections: selection of rationales, features, and MetaNet's warm-up."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pipeline.config.engines import EngineConfig
from pipeline.config.models import WeightsField
from pipeline.schema.fields import Frozen, identity, runtime


class MetaNetShape(Frozen):
    """Shape of MetaNet, the teaching assistant."""

    width: int = identity(256, ge=8)
    """Model width; a multiple of `heads`."""
    heads: int = identity(4, ge=0)
    """Attention heads across perspectives; 0 removes the attention block (an ablation)."""
    alignment: Literal["linear", "mlp"] = identity("linear")
    """Feature alignment, shared by the perspectives: one linear layer, or an MLP of two layers as in the paper."""

    @model_validator(mode="after")
    def _divisible(self) -> MetaNetShape:
        if self.heads and self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class Objective(Frozen):
    """MetaNet's objective L_meta, in the warm-up and in joint training; see `pipeline/metanet/inertia.py`."""

    hardest: float = identity(1.0, gt=0, le=1)
    """Share of a rationale's tokens, those of largest loss, that L_real averages; 1 averages all of them, as the paper does."""
    temperature: float = identity(1.0, gt=0)
    """Temperature τ of the softmax over perspectives."""
    direction: Literal["prediction_first", "target_first"] = identity("target_first")
    """Direction of the KL divergence: KL(prediction ‖ target) as in the paper, or KL(target ‖ prediction)."""
    target: Literal["z", "raw"] = identity("z")
    """Target scores: negative losses z-scored over a question's rationales, or raw as in the paper."""


class Synthesis(Frozen):
    """Selection of rationales, their features, and MetaNet's warm-up."""

    engine: EngineConfig = identity(EngineConfig())
    """Engine that runs the base student's attempts."""
    attempts: int = identity(4, ge=1)
    """Attempts of the base student per question; their pass rate is the question's difficulty. None are made if `keep_easy` is 1."""
    attempt_temperature: float = identity(0.7, ge=0)
    """Sampling temperature of the attempts."""
    max_tokens: int = identity(1024, ge=1)
    """Longest attempt, in tokens."""
    keep_easy: float = identity(0.5, ge=0, le=1)
    """Share of easy questions that is kept."""
    easy_above: float = identity(0.5, ge=0, le=1)
    """A question is easy if its pass rate is above this."""
    min_perspectives: int = identity(3, ge=1)
    """Drop questions with correct rationales in fewer perspectives."""
    max_questions: int | None = identity(None, ge=1)
    """Keep at most this many questions of those that pass every other rule, chosen by id and seed."""
    duplicate_jaccard: float = identity(0.6, gt=0, le=1)
    """Deduplication: two rationales of a question whose 5-gram Jaccard similarity is above this count once."""
    thoughts: Literal["drop", "keep"] = identity("drop")
    """Drop or keep what a thinking teacher writes before `</think>`. Behind a prompt that opens a thought, a dropped one is empty."""
    form: Literal["report", "require"] = identity("report")
    """Correct samples without the form that their perspective asks for: only count them, or drop them."""
    majority: Literal["require"] | None = identity(None)
    """`require` drops questions whose most frequent sampled answer differs from the gold answer, which may be wrong itself."""
    encoder: WeightsField | None = identity(None)
    """Frozen encoder of MetaNet's features; the base student if left out."""
    encoder_context: int = identity(512, ge=8)
    """Longest text that an encoder of its own reads at once, in tokens; longer texts are averaged over chunks."""
    metanet: MetaNetShape = identity(MetaNetShape())
    """Shape of MetaNet."""
    warm_up_epochs: int = identity(3, ge=0)
    """MetaNet's warm-up epochs on the base student's losses."""
    warm_up_rate: float = identity(1e-3, gt=0)
    """Learning rate of the warm-up."""
    batch_questions: int = identity(32, ge=1)
    """Questions per warm-up batch."""
    teacher_top_k: int | None = identity(None, ge=1)
    """Soft targets: the teacher's log-probabilities of this many most likely tokens, at every token of a kept rationale; `sampling.engine`
    measures them, and teacher and student must have the same vocabulary. None are measured if left out."""
    forward_rows: int = runtime(32, ge=1)
    """Rationales per forward pass when losses and features are measured: whole questions, so one question may have more."""
