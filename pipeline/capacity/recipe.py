"""Remarks on a run's recipe that no machine can change: settings that are valid, but hardly what anybody wants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from pipeline.capacity.machine import Check
from pipeline.config.run import RunConfig

FEWEST_UPDATES: Final = 20
"""Below this, MetaNet's scores stay about those of its warm-up, so training selects by the base student's losses."""


def recipe_checks(run: RunConfig) -> Iterator[Check]:
    """Warns where MetaNet takes so few updates that it cannot follow the student."""
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
