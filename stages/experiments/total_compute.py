"""Estimates the total compute behind one run's student, so that arms can be compared by what they cost in all.

A token costs a model of N parameters 2N floating point operations forward and 4N backward (Kaplan et al. 2020, arXiv:2001.08361, without
the pairs of attention); with LoRA the backward pass computes 2N for activations and two per trained parameter. Counted is what the arm
needs: the teacher's samples of its perspectives with their prompts, and its scores; the base student's pass that gives features and base
losses, if the arm uses them; the training with its probes; texts that the student writes. An arm on own texts alone needs no samples.
Counted, though it has no weight: its pass over recorded rationales, which a step takes anyhow. Not counted: evaluation, MetaNet (two per
cent of a step), recomputed activations, the base student's attempts, and the features of another encoder. A served teacher's size is
unknown, and imported rationales have no teacher; both count as nothing.

Prompts have as many tokens per character as rationales. Of a mixture of experts all experts are counted.

Arms can also be matched in this total (`steps_of_equal_compute`): an arm that costs less before its first step, or in each step, takes more
steps. That needs the costs of a series that is matched in steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

import pyarrow.compute as pc

from pipeline.capacity.estimate import ModelShape, shape_of_model
from pipeline.config.models import HubModel, LocalModel, Weights
from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError
from stages.core.summaries import TrainingSummary
from storage.artifact import Artifact

_NOTHING: Final = ModelShape(0, 0, 0, 0, 0, 0, "float32", 0)
USE_LOSSES: Final = ("metanet", "table", "static")
"""Mixture weights that need the base student's losses or features."""


class Compute(NamedTuple):
    """Floating point operations by purpose."""

    sampling: float
    """The teacher's samples."""
    scores: float
    """The teacher's scores of recorded rationales."""
    features: float
    """The base student's pass over all kept rationales."""
    training: float
    """The student's steps with their probes."""
    own_texts: float
    """Own texts: the student writes and the teacher scores."""

    @property
    def total(self) -> float:
        """All purposes."""
        return sum(self)


PER_STEP: Final = ("training", "own_texts")
"""Purposes that grow with the number of steps."""


@cache
def _shape(model: Weights) -> ModelShape | None:
    """The shape of a model, which all runs of a comparison share; None if its configuration is no longer available."""
    try:
        return shape_of_model(model)
    except (OSError, ValueError, AttributeError):
        return None


def total_compute(run: RunConfig, artifacts: Mapping[str, Artifact]) -> Compute:
    """The compute of a finished run, from its artifacts by stage (sampling, synthesis, training); nan if a model is not available."""
    settings, trained = run.training, TrainingSummary.of(artifacts["training"])
    student, asked = _shape(run.student), _shape(run.teacher) if isinstance(run.teacher, LocalModel | HubModel) else _NOTHING
    if student is None or asked is None:
        return Compute(*(float("nan") for _ in Compute._fields))
    teacher = asked.parameters
    learning = student.parameters if settings.lora is None else settings.lora.rank * student.linear
    kept = artifacts["synthesis"].table("rationales", ["question_id", "perspective", "prompt", "rationale", "tokens"])
    samples = artifacts["sampling"].table("samples", ["perspective", "prompt_tokens", "completion_tokens"])
    if settings.perspectives is not None:
        mine = pc.field("perspective").isin(list(settings.perspectives))
        samples, kept = samples.filter(mine), kept.filter(mine)
    sampled = sum(pc.sum(samples[name]).as_py() or 0 for name in ("prompt_tokens", "completion_tokens"))
    tokens = pc.sum(kept["tokens"]).as_py() or 0
    characters = [len(text) for text in kept["prompt"].to_pylist()]
    of_character = tokens / max(1, sum(len(text) for text in kept["rationale"].to_pylist()))
    prompts = of_character * sum(characters)  # one for each rationale
    shared = of_character * sum(dict(zip(kept["question_id"].to_pylist(), characters, strict=True)).values())
    scored = tokens + prompts if settings.soft_targets is not None else 0.0
    own = 0
    if settings.on_policy is not None:
        texts = artifacts["training"].table("own_texts", ["prompt_tokens", "tokens"])
        own = sum(pc.sum(pc.list_value_length(texts[name])).as_py() or 0 for name in texts.column_names)
    policy = settings.on_policy
    unread = policy is not None and policy.share == 1 and policy.first_step(settings.steps) == 0
    return Compute(
        sampling=0.0 if unread else 2.0 * teacher * sampled,
        scores=2.0 * teacher * scored,
        features=2.0 * student.parameters * (tokens + shared) * (settings.mixture.weights in USE_LOSSES),
        training=trained.tokens_passed * (4.0 * student.parameters + 2.0 * learning)
        + 2.0 * student.parameters * trained.tokens_probed,
        own_texts=2.0 * (student.parameters + teacher) * own,
    )


def steps_of_equal_compute(arm: str, mine: Sequence[Compute], others: Sequence[Compute], steps: int) -> int:
    """Steps with which an arm costs what another one does in all; `mine` and `others` are the costs of both in runs of `steps` steps.

    Raises:
        ConfigError: the arm costs more before its first step, or a cost is unknown.
    """
    each: float = sum(getattr(run, purpose) for run in mine for purpose in PER_STEP) / len(mine)
    left: float = sum(run.total for run in others) / len(others) - (sum(run.total for run in mine) / len(mine) - each)
    if math.isnan(left):
        raise ConfigError(
            f"--match compute: the cost of arm {arm!r} is unknown, because a model of it is not available; restore it"
        )
    if left <= 0:
        raise ConfigError(f"--match compute: arm {arm!r} costs more before its first step than the other in all; leave it out")
    return max(1, round(steps * left / each))
