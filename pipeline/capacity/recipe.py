"""Remarks on a run's recipe, which hold on any machine: its preset, and settings that are valid, but hardly what anybody wants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any, Final

from pipeline.capacity.machine import Check
from pipeline.config.presets import leaves, preset_tree
from pipeline.config.run import RunConfig

FEWEST_UPDATES: Final = 20
"""Below this, MetaNet's scores stay about those of its warm-up, so training selects by the base student's losses."""


def _value(run: RunConfig, name: str) -> Any:
    return reduce(getattr, name.split("."), run)


def recipe_checks(run: RunConfig) -> Iterator[Check]:
    """Names the preset and what the run sets otherwise; warns of a missing encoder, and of a MetaNet that cannot follow the student."""
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
