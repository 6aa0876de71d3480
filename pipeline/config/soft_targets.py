"""How the student learns from the teacher's distributions over the next token: on the teacher's texts (soft targets), and on its own
(on-policy distillation).
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import model_validator

from pipeline.config.engines import EngineConfig
from pipeline.schema.fields import Frozen, identity, runtime

BYTES_OF_TOKEN: Final = 8
"""Bytes of one likely token of a soft target: an id and a log-probability."""


class Divergence(Frozen):
    """What is minimised between the teacher's and the student's distribution of the next token."""

    kind: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = identity("forward_kl")
    """KL(teacher ‖ student), which covers all that the teacher may say; KL(student ‖ teacher), which keeps to what the teacher is sure of;
    or the generalised Jensen-Shannon divergence of GKD, between the two."""
    beta: float = identity(0.5, gt=0, lt=1)
    """`jensen_shannon` only: the teacher's share of the mixture; towards 0 it is like forward_kl, towards 1 like reverse_kl."""


def check_scores_tokens(engine: EngineConfig, field: str) -> None:
    """Refuse an engine of the teacher that does not score given tokens.

    Raises:
        ValueError: the engine is a provider's, with batches or prices.
    """
    if engine.batches or engine.prices is not None:
        raise ValueError(
            f"{field}: the teacher scores given tokens, which only a vLLM server of your own does; remove batches and prices"
        )


class SoftTargets(Frozen):
    """Soft targets as a part of the training's loss; `synthesis.teacher_top_k` measures them."""

    share: float = identity(gt=0, le=1)
    """Share of a rationale's loss that is the divergence to the teacher; the rest is the cross-entropy of its text."""
    divergence: Divergence = identity(Divergence())
    """The divergence."""


class OnPolicy(Frozen):
    """On-policy distillation: the student writes, the teacher scores every token, and the divergence between both is minimised."""

    share: float = identity(gt=0, le=1)
    """Share λ of the loss that is on the student's own texts; the rest is on the recorded rationales."""
    after: float = identity(0.0, ge=0, lt=1)
    """Share of the steps that are on recorded rationales alone, before the first own texts."""
    every: int = identity(1, ge=1)
    """Steps between two rounds of writing; a round writes for the questions of all steps up to the next one."""
    texts: int = identity(1, ge=1)
    """Texts of a question."""
    max_tokens: int = identity(256, ge=1)
    """Longest text, in tokens; a text that is cut off is learnt from as far as it goes."""
    temperature: float = identity(1.0, gt=0)
    """Sampling temperature of the texts."""
    top_k: int = identity(32, ge=1)
    """The teacher's most likely tokens of a position that are told apart; all others are one outcome."""
    divergence: Divergence = identity(Divergence(kind="reverse_kl"))
    """The divergence."""
    engine: EngineConfig = identity(EngineConfig(kind="transformers"))
    """Engine of the teacher: transformers, in each rank, or a server of vLLM."""
    rows: int = runtime(16, ge=1)
    """Texts that are written together on a rank."""

    def first_step(self, steps: int) -> int:
        """The step with the first own texts, of a training of `steps` steps."""
        return min(round(self.after * steps), steps - 1)

    @model_validator(mode="after")
    def _teacher_is_beside_the_student(self) -> OnPolicy:
        if self.engine.kind == "vllm":
            raise ValueError(
                "engine: vLLM would need the memory that the student trains in; use transformers, or a server of vLLM (kind openai)"
            )
        check_scores_tokens(self.engine, "engine")
        return self
