"""The `sampling` section: how the teacher is sampled, or which imported rationales take its place."""

from __future__ import annotations

from pydantic import model_validator

from pipeline.config.engines import EngineConfig, Judge
from pipeline.config.rationales import ImportedRationales
from pipeline.schema.fields import Frozen, identity, runtime


class Sampling(Frozen):
    """Sampling of the teacher. With `rationales` no teacher is asked, and only `judge` has a meaning beside it."""

    rationales: ImportedRationales | None = identity(None)
    """Imported rationales, in place of sampling."""
    engine: EngineConfig = identity(EngineConfig())
    """Engine that runs the teacher."""
    samples: int = identity(1, ge=1)
    """Samples per question and perspective, always drawn."""
    tries: int = identity(4, ge=1)
    """Most samples per question and perspective: beyond `samples`, another is drawn while none is correct."""
    temperature: float = identity(0.7, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = identity(0.95, gt=0, le=1)
    """Nucleus sampling: probability mass to sample from."""
    top_k: int | None = identity(None, ge=1)
    """Number of most likely tokens to sample from."""
    min_p: float | None = identity(None, ge=0, le=1)
    """Leave out tokens that are less likely than this share of the most likely one."""
    repetition_penalty: float | None = identity(None, gt=0)
    """Divide the logits of tokens that prompt or text already have (Keskar et al. 2019); 1 is none."""
    presence_penalty: float | None = identity(None, ge=-2, le=2)
    """Lower the logits of tokens that the text already has by this amount."""
    reasoning_effort: str | None = identity(None, min_length=1)
    """Server only: how long the teacher may think, in the server's words. A chat template takes `teacher.turns.template`."""
    max_tokens: int = identity(1024, ge=1)
    """Longest completion, in tokens."""
    judge: Judge | None = identity(None)
    """A language model that decides about samples whose answer the rules cannot read."""
    questions_per_shard: int = runtime(64, ge=1)
    """Questions per committed shard: what a killed run loses at most, and what one batch of a server holds (`engine.batches`)."""

    @model_validator(mode="after")
    def _effort_needs_a_server(self) -> Sampling:
        if self.reasoning_effort is not None and self.engine.in_process:
            raise ValueError(
                "reasoning_effort: only a server knows it; give the chat template's argument in teacher.turns.template"
            )
        return self

    @model_validator(mode="after")
    def _the_judge_has_room(self) -> Sampling:
        if (
            self.rationales is None
            and self.judge is not None
            and self.judge.engine.max_context <= (least := self.max_tokens + self.judge.max_tokens)
        ):
            raise ValueError(
                f"judge.engine.max_context: {self.judge.engine.max_context} holds no sample of max_tokens {self.max_tokens} with its "
                f"question and a verdict of {self.judge.max_tokens}; raise it well over {least}"
            )
        return self
