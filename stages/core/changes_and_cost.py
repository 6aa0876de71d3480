"""Explains a run before it starts: whether each stage is cached, resumes or runs, which fields changed, and the expected cost.

A stage is compared with the finished artifact whose identity differs from it in the fewest fields. Candidates are the artifacts of the
latest run of this name, then those of the most recent runs that differ in a few fields only: the difference to an unrelated run says
nothing. Expected tokens, bytes and seconds are those of that artifact, scaled by the amount of work; they are unknown if models, engines or
precision differ, on which they depend more than on the amount.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pydantic import ValidationError

from pipeline.config.run import RunConfig
from stages.core.paid_tokens import Asked, by_currency, engines_of, journal_file, priced, spent_on, usage_of
from stages.core.plan import StagePlan, stage_module
from stages.core.process import progress_path, store_of
from stages.core.progress import read_progress
from stages.core.summaries import QuestionsSummary, SamplingSummary, Spent
from storage.artifact import Artifact
from storage.catalogue import read_run, read_runs
from storage.documents import Manifest
from storage.errors import ArtifactError
from storage.lineage import Change, differences
from storage.store import Store

_RECENT: Final = 5
_FEW: Final = 6
"""Fields in which an artifact of a run of another name may differ, to be compared with (our choice)."""
_PACE: Final = re.compile(
    r"outside\.(student|base|teacher|encoder|judge|model).*|config\..*(engine|precision|lora|encoder|judge|thoughts|max_tokens|max_length)\b.*"
)
"""Fields on which the time for a unit of work depends."""
_SHARD: Final = re.compile(r"(.+)-\d+\.parquet")


@dataclass(frozen=True)
class Expected:
    """Expected cost of a stage, estimated from an earlier artifact."""

    tokens: int | None
    bytes: int
    seconds: float
    cost: dict[str, float]
    """Currency -> amount, at the run's prices; empty without a server that has some."""


@dataclass(frozen=True)
class Explained:
    """The state of a stage before it runs."""

    stage: str
    fingerprint: str
    state: Literal["cached", "resume", "run"]
    detail: str
    against: str | None
    changes: list[Change]
    expected: Expected | None
    paid: dict[str, float]
    """Currency -> amount that servers have been paid so far, of a cached stage altogether."""


def _work(stage: str, config: Any, inputs: Mapping[str, Artifact]) -> float | None:
    """A stage's amount of work, from its configuration and the summaries of its inputs; None for stages that take negligible time."""
    match stage:
        case "references" | "evaluation":
            answers = 1 + (config.evaluation.draws.count if config.evaluation.draws is not None else 0)
            return float(sum(QuestionsSummary.of(inputs["questions"]).evaluation.values()) * answers)
        case "sampling":
            return float(QuestionsSummary.of(inputs["questions"]).train * len(config.perspectives) * config.sampling.samples)
        case "synthesis":
            return float(SamplingSummary.of(inputs["sampling"]).samples)
        case "training":
            return float(config.training.steps * config.training.questions_per_step)
    return None


def _scale(store: Store, planned: StagePlan, manifest: Manifest) -> float:
    """Work of the planned stage relative to that of an earlier artifact; 1 if either is unknown."""
    sides = (planned.inputs, manifest["inputs"])
    if not all(store.exists(*item) for inputs in sides for item in inputs.items()):
        return 1.0
    wanted, before = ({name: store.open(name, digest) for name, digest in inputs.items()} for inputs in sides)
    try:
        earlier = stage_module(planned.name).Config.model_validate(manifest["config"])
        now, then = _work(planned.name, planned.config, wanted), _work(planned.name, earlier, before)
    except ValidationError:  # configuration or summary of a version with other fields
        return 1.0
    return now / then if now is not None and then else 1.0


def _expected(store: Store, planned: StagePlan, manifest: Manifest, left: float) -> Expected | None:
    if any(_PACE.fullmatch(change.field) for change in differences(manifest["identity"], planned.identity)):
        return None
    scale = _scale(store, planned, manifest) * left
    summary = manifest["summary"]
    tokens = summary.get("tokens", summary.get("tokens_trained"))
    return Expected(
        None if tokens is None else round(tokens * scale),
        round(sum(entry["bytes"] for entry in manifest["files"]) * scale),
        round(float(manifest["timing"]["seconds"]) * scale, 1),
        _cost(planned, manifest, scale),
    )


def _cost(planned: StagePlan, manifest: Manifest, scale: float) -> dict[str, float]:
    """A share of an earlier artifact's tokens at the planned engines' prices."""
    engines = engines_of(planned.name, planned.config)
    spent = _spent(manifest)
    return by_currency(priced(usage_of(spent[name], scale), engine) for name, engine in engines.items() if name in spent)


def _spent(manifest: Manifest) -> dict[str, Spent]:
    try:
        return {name: Spent.model_validate(found) for name, found in (manifest["summary"].get("spent") or {}).items()}
    except (AttributeError, ValidationError):  # not one that the stage has written
        return {}


def _paid(store: Store, planned: StagePlan) -> dict[str, float]:
    """What an unfinished stage has paid for on this machine."""
    folder = store.folder(planned.name, planned.fingerprint).with_suffix(".scratch")
    engines = engines_of(planned.name, planned.config)
    return by_currency(
        (spent_on({name: Asked(engine, journal_file(folder, name)) for name, engine in engines.items()}) or {}).values()
    )


def _candidates(store: Store, run: RunConfig, planned: StagePlan) -> list[Manifest]:
    """Manifests of finished artifacts of a stage, those of the run of this name first."""
    same_name = read_run(store.backend, run.name)
    own = [] if same_name is None else [same_name["stages"], *same_name["earlier"]]
    others = [found["stages"] for found in read_runs(store.backend, _RECENT).runs]
    names = [(stages.get(planned.name), stages in own) for stages in (*own, *others)]
    found: dict[str, Manifest] = {}
    for digest, mine in names:
        if not digest or digest == planned.fingerprint or digest in found:
            continue
        try:
            manifest = store.manifest(planned.name, digest)
        except ArtifactError:
            continue  # unfinished or damaged: cannot be compared
        if mine or len(differences(manifest["identity"], planned.identity)) <= _FEW:
            found[digest] = manifest
    return list(found.values())


def _unfinished(store: Store, planned: StagePlan) -> tuple[str, float] | None:
    """The progress of an unfinished stage, as text and as the remaining share; None if it never started."""
    name = f"{planned.name}/{planned.fingerprint}"
    files = store.backend.names(name if store.remote is not None else f"{name}.partial")
    if not files and not store.backend.names(f"{name}.scratch"):
        return None
    shards = Counter(match[1] for match in map(_SHARD.fullmatch, files) if match)
    said = [f"{count} shard{'s' if count > 1 else ''} of {table}" for table, count in shards.items()]
    progress = read_progress(progress_path(store, planned))
    if progress is None or not progress["total"]:
        return ", ".join(said), 1.0
    said.append(f"{progress['label']}: {progress['done']} of {progress['total']} {progress['unit']}")
    return ", ".join(said), 1 - progress["done"] / progress["total"]


def explain(run: RunConfig, planned: Mapping[str, StagePlan]) -> list[Explained]:
    """Explain every stage of a run, in order. If the cost of a stage that has to run is unknown, so is that of the stages that read it."""
    found: dict[str, Explained] = {}
    for name, item in planned.items():
        mine = _explain(store_of(run), run, item)
        known = all(found[needed].state == "cached" or found[needed].expected is not None for needed in item.inputs)
        found[name] = mine if known else replace(mine, expected=None)
    return list(found.values())


def _explain(store: Store, run: RunConfig, planned: StagePlan) -> Explained:
    if store.exists(planned.name, planned.fingerprint):
        paid = by_currency(_spent(store.manifest(planned.name, planned.fingerprint)).values())
        return Explained(planned.name, planned.fingerprint, "cached", "", None, [], None, paid)
    unfinished = _unfinished(store, planned)
    detail, left = unfinished or ("", 1.0)
    candidates = _candidates(store, run, planned)
    nearest = min(candidates, key=lambda manifest: len(differences(manifest["identity"], planned.identity)), default=None)
    return Explained(
        planned.name,
        planned.fingerprint,
        "run" if unfinished is None else "resume",
        detail,
        None if nearest is None else f"{planned.name}/{nearest['fingerprint']}",
        [] if nearest is None else differences(nearest["identity"], planned.identity),
        None if nearest is None else _expected(store, planned, nearest, left),
        _paid(store, planned),
    )
