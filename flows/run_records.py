"""Operations on runs that need no Prefect: the catalogue, finished runs, and a single stage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType

from flows.result_tables import StageOutcome
from flows.stage_process import run_child
from flows.terminal_progress import watching
from flows.tracking.following import followed
from pipeline.config.run import RunConfig
from stages.core.plan import StagePlan, plan
from stages.core.process import store_of
from storage.catalogue import record_run
from storage.errors import ArtifactMissing
from storage.store import Store


def fingerprints(planned: Mapping[str, StagePlan]) -> dict[str, str]:
    """Stage -> fingerprint."""
    return {name: item.fingerprint for name, item in planned.items()}


def record(config: RunConfig, planned: Mapping[str, StagePlan], status: str) -> None:
    """Write a run into the catalogue."""
    record_run(store_of(config).backend, config.name, fingerprints(planned), config.model_dump(mode="json"), status)


def record_stage(config: RunConfig) -> None:
    """Update the catalogue after one stage: the run is done if all of its artifacts exist."""
    store, planned = store_of(config), plan(config)
    record(config, planned, "done" if all(store.exists(*item) for item in fingerprints(planned).items()) else "partial")


def require_inputs(store: Store, planned: StagePlan) -> None:
    """Refuse to start a stage before its inputs exist.

    Raises:
        ArtifactMissing: names the first missing input.
    """
    for name, digest in planned.inputs.items():
        if not store.exists(name, digest):
            raise ArtifactMissing(f"{planned.name}: requires {name}/{digest}, which does not exist; run the {name} stage first")


def finished_outcomes(config: RunConfig, ran: Mapping[str, float] = MappingProxyType({})) -> dict[str, StageOutcome] | None:
    """Every stage's artifact, or None if one is missing. `ran` has the seconds of stages that were not reused."""
    store = store_of(config)
    planned = plan(config)
    if not all(store.exists(name, item.fingerprint) for name, item in planned.items()):
        return None
    return {
        name: StageOutcome(store.open(name, item.fingerprint), name not in ran, ran.get(name, 0.0))
        for name, item in planned.items()
    }


def run_one(config: RunConfig, name: str) -> StageOutcome:
    """Run one stage in its own process.

    Raises:
        ArtifactMissing: an input does not exist.
    """
    store, stages = store_of(config), plan(config)
    planned = stages[name]
    began, reused = time.monotonic(), store.exists(name, planned.fingerprint)
    with followed(config) as trackers:
        if not reused:
            require_inputs(store, planned)
            record(config, stages, "running")
            with watching(name) as show:
                run_child(config, planned, show)
            record_stage(config)
        artifact = store.open(name, planned.fingerprint)
        trackers.finished(artifact)
    return StageOutcome(artifact, reused, 0.0 if reused else time.monotonic() - began)
