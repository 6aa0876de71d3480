"""Remarks on a run's recipe, which hold on any machine: its preset, and settings that are valid, but hardly what anybody wants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any, Final

from pipeline.capacity.machine import Check
from pipeline.config.models import LocalModel
from pipeline.config.presets import leaves, preset_tree
from pipeline.config.run import RunConfig
from pipeline.config.soft_targets import BYTES_OF_TOKEN
from pipeline.model_folders import DECODING, recommended_decoding
from pipeline.perspectives.run_perspectives import perspectives_of

FEWEST_UPDATES: Final = 20
"""Below this, MetaNet's scores stay about those of its warm-up, so training selects by the base student's losses."""


def _value(run: RunConfig, name: str) -> Any:
    return reduce(getattr, name.split("."), run)


def _batch_checks(run: RunConfig) -> Iterator[Check]:
    """What a batch of a server's batch interface holds: the requests of a shard."""
    sampling, evaluation = run.sampling, run.evaluation
    if sampling.rationales is None and sampling.engine.batches:
        perspectives = len(perspectives_of(run))
        number = sampling.questions_per_shard * perspectives * sampling.samples
        found = (
            f"one has a shard's {number:,} requests of the teacher ({sampling.questions_per_shard:,} questions x {perspectives} "
            f"perspectives x {sampling.samples} samples), each of the {sampling.tries} tries is one more; two shards are under way at once"
        )
        yield Check(
            "batches",
            "ok",
            found,
            "for fewer and larger ones raise sampling.questions_per_shard, up to 50,000 requests",
        )
    if evaluation.engine.batches:
        found = f"one has a shard's {evaluation.items_per_shard:,} answers, and two shards are under way at once"
        yield Check(
            "batches",
            "ok",
            found,
            "for fewer and larger ones raise evaluation.items_per_shard, up to 50,000 answers",
        )


def _decoding_checks(run: RunConfig) -> Iterator[Check]:
    """Offers the decoding that a local teacher's folder recommends, which is never taken by itself."""
    if run.sampling.rationales is not None or not run.sampling.engine.in_process or not isinstance(run.teacher, LocalModel):
        return
    own = {name: getattr(run.sampling, name) for name in DECODING}
    stated = recommended_decoding(run.teacher).items()
    other = {name: value for name, value in stated if own[name] != value and not (name in ("top_p", "min_p") and value > 1)}
    if other:
        recommended = ", ".join(f"{name} {value}" for name, value in other.items())
        here = ", ".join(f"no {name}" if own[name] is None else f"{name} {own[name]}" for name in other)
        yield Check(
            "teacher's decoding",
            "ok",
            f"its generation_config.json recommends {recommended}; this run has {here}",
            f"to follow it: {' '.join(f'--set sampling.{name}={value}' for name, value in other.items())}",
        )


def recipe_checks(run: RunConfig) -> Iterator[Check]:
    """Names the preset and what the run sets otherwise; warns of a missing encoder, and of a MetaNet that cannot follow the student.

    Says what a batch holds, where a server's batches are used, how large soft targets are, and how the teacher's makers sample it, if
    otherwise.
    """
    yield from _batch_checks(run)
    if (top_k := run.synthesis.teacher_top_k) is not None:
        size = (
            f"{top_k} likely tokens of each take {top_k * BYTES_OF_TOKEN:,} MB per million trained tokens, before compression"
        )
        yield Check("soft targets", "ok", size)
    yield from _decoding_checks(run)
    if run.preset is not None:
        own = [name for name, value in leaves(preset_tree(run.preset)).items() if _value(run, name) != value]
        yield Check("preset", "ok", f"{run.preset}" + (f"; set otherwise in this run: {', '.join(own)}" if own else ""))
    if run.preset == "paper" and run.synthesis.encoder is None:
        found = "the preset needs a BERT-like encoder and none is given; the frozen base student is the encoder instead"
        yield Check(
            "encoder", "warn", found, "set synthesis.encoder to a BERT-like model, or keep the student, which needs no download"
        )
    training = run.training
    updates = math.ceil(training.steps / training.metanet_accumulation)
    if training.mixture.weights == "metanet" and updates < FEWEST_UPDATES:
        yield Check(
            "MetaNet",
            "warn",
            f"takes only {updates} updates ({training.steps} steps / metanet_accumulation {training.metanet_accumulation}), so it "
            "hardly follows the student",
            "raise training.steps, or lower training.metanet_accumulation",
        )
