"""Defines the order and inputs of the stages and computes the fingerprint of each stage's artifact for a run configuration."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from pipeline.config.run import RunConfig
from pipeline.schema.fields import Frozen, identity_fields
from stages.core.progress import Progress
from stages.core.summaries import Summary
from storage.artifact import Artifact, Draft
from storage.fingerprint import fingerprint

ORDER: Final = ("questions", "references", "sampling", "synthesis", "training", "evaluation", "report")
"""References run early, so that problems with the models or the items show before any expensive stage."""


class Stage(Protocol):
    """The interface of a stage module."""

    NAME: str
    VERSION: int
    INPUTS: tuple[str, ...]
    Config: type[Frozen]

    def config_of(self, run: RunConfig) -> Frozen: ...
    def outside(self, config: Any) -> dict[str, str]: ...
    def check(self, config: Any) -> None: ...
    def run(self, config: Any, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> Summary: ...


@dataclass(frozen=True)
class StagePlan:
    """A stage of a run with its configuration, its inputs, and the fingerprint of its artifact."""

    name: str
    fingerprint: str
    config: Frozen
    identity: dict[str, Any]
    inputs: dict[str, str]
    given: dict[str, str]


def stage_module(name: str) -> Stage:
    """The module `stages.<name>.stage`."""
    return importlib.import_module(f"stages.{name}.stage")


def plan(run: RunConfig, given: Mapping[str, str] = MappingProxyType({})) -> dict[str, StagePlan]:
    """Check the configuration of every stage and compute its artifact's fingerprint, in order. Loads no model.

    `given` maps stages to fingerprints of artifacts to use instead of this run's own: with {"training": another student's}, the planned
    evaluation is that student's on this run's items.

    Raises:
        BadInput: the first problem that would make a stage fail.
    """
    planned: dict[str, StagePlan] = {}
    for name in ORDER:
        stage = stage_module(name)
        config = stage.config_of(run)
        stage.check(config)
        inputs = {needed: planned[needed].fingerprint for needed in stage.INPUTS}
        identity = {
            "stage": name,
            "version": stage.VERSION,
            "config": identity_fields(config),
            "inputs": inputs,
            "outside": stage.outside(config),
        }
        planned[name] = StagePlan(name, given.get(name) or fingerprint(identity), config, identity, inputs, dict(given))
    return planned
