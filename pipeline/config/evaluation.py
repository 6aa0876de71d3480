"""The `evaluation` section: how base, teacher and student answer the evaluation sets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from pipeline.config.engines import EngineConfig
from pipeline.schema.fields import Frozen, identity, runtime


class Draws(Frozen):
    """Sampled answers besides the greedy one: for pass@1 with its spread, pass@k, and the majority vote."""

    count: int = identity(8, ge=2, le=1024)
    """Sampled answers per question."""
    temperature: float = identity(0.7, gt=0)
    """Sampling temperature."""
    top_p: float = identity(1.0, gt=0, le=1)
    """Nucleus sampling: probability mass to sample from."""


class Evaluation(Frozen):
    """Evaluation of base, teacher and student on every set of one use."""

    use: Literal["dev", "test"] = identity("test")
    """The sets to answer: `dev` for choosing, `test` for reporting."""
    engine: EngineConfig = identity(EngineConfig())
    """Engine that runs the evaluated models."""
    max_tokens: int = identity(1024, ge=1)
    """Longest answer, in tokens."""
    draws: Draws | None = identity(None)
    """Sampled answers besides the greedy one."""
    likelihood: bool | None = identity(None)
    """`true`: besides the generated answers, score the choices of every `choice` question and yes and no of every `boolean` question by
    their likelihood after the prompt `prompts.likelihood`. For models that know an answer but cannot state it in the asked form.
    """
    examples: int | None = identity(None, ge=0, le=64)
    """Worked examples from the training questions. Every model then answers a second time, with this many of them before the question;
    the answers without examples stay the main result. None by default.
    """
    items_per_shard: int = runtime(256, ge=1)
    """Answers per committed shard, and in one batch of a server (`engine.batches`)."""

    @field_validator("likelihood", "examples")
    @classmethod
    def _off_is_left_out(cls, value: Any) -> Any:
        """`false` and 0 ask for nothing, like the default, so they have its fingerprint."""
        return value or None
