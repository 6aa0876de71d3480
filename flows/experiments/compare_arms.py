"""The experiment as a Prefect flow: runs every arm with every seed, resumable per run, and compares them.

Stages that the arms of a seed share (questions, references, samples, and mostly synthesis) run first, one by one. Then workers, one per
core, process all runs in one process each (`stages/experiments/worker.py`) and skip finished runs, so the flow can be stopped and
restarted at any time. Every run is in the catalogue under its own name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.result_tables import StageOutcome, say_stage
from flows.run_records import record
from flows.stage_process import watch
from flows.stage_task import run_stage
from flows.terminal_progress import watching
from pipeline.baselines_and_ablations import ASKS_TEACHER, KEPT, Arm, Volume, arms
from pipeline.config.models import ImportedModel
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError
from pipeline.perspectives.run_perspectives import perspectives_of
from pipeline.schema.fields import Frozen
from stages.core.plan import StagePlan, plan
from stages.core.process import store_of
from stages.experiments.claims import in_points
from stages.experiments.comparison import Finished, write
from stages.experiments.total_compute import Compute, steps_of_equal_compute, total_compute
from storage.atomic import write_bytes

SHARED: Final = ("questions", "references", "sampling", "synthesis")


class Experiment(Frozen):
    """The runs of an experiment and their comparison."""

    config: str = Field("configs/science.yaml", min_length=1, description="the arms' common YAML file")
    changes: tuple[str, ...] = Field((), description="fields to override in every arm, for example training.steps=100")
    arms: tuple[str, ...] | None = Field(None, min_length=1, description="names of arms; default: all")
    seeds: int = Field(5, ge=1, le=100, description="number of seeds, counted from 0")
    use: Literal["dev", "test"] = Field("dev", description="evaluation sets: dev for making choices, test once for results")
    against: str = Field("mind", description="the arm that all others are compared with")
    copied: str | None = Field(None, description="the perspective of the arm with repeated samples; default: the first")
    kept: float = Field(
        KEPT, gt=0, description="rationales of a question that the method keeps; arms are matched in rationales"
    )
    match: Literal["steps", "compute"] = Field(
        "steps",
        description="what arms have in common: optimiser steps, or total compute, by the runs matched in steps",
    )
    workers: int = Field(2, ge=1, description="parallel processes; one per core")


def base_of(experiment: Experiment) -> RunConfig:
    """The configuration that all arms share."""
    return load_config(Path(experiment.config), (*experiment.changes, f"evaluation.use={experiment.use}"))


class ArmRun(NamedTuple):
    """One arm with one seed."""

    arm: Arm
    seed: int
    assignments: tuple[str, ...]
    config: RunConfig
    planned: Mapping[str, StagePlan]


def chosen_arms(experiment: Experiment) -> tuple[Arm, ...]:
    """The arms of an experiment.

    Raises:
        ConfigError: an arm's name is unknown.
    """
    base = base_of(experiment)
    names = [item.name for item in perspectives_of(base)]
    volume = Volume(base.training.questions_per_step, base.training.questions_per_micro_batch, experiment.kept)
    known = {arm.name: arm for arm in arms(volume, names, experiment.copied or names[0])}
    for name in (*(experiment.arms or ()), experiment.against):
        if name not in known:
            raise ConfigError(f"arm {name!r}: unknown; use one of {', '.join(known)}")
    wanted = experiment.arms or tuple(name for name, arm in known.items() if _possible(base, arm))
    return tuple(arm for name, arm in known.items() if name in {*wanted, experiment.against})


def _possible(base: RunConfig, arm: Arm) -> bool:
    """Imported rationales cannot be sampled again, and their teacher cannot be asked."""
    asks_teacher = any(field in arm.changes for field in ASKS_TEACHER) and isinstance(base.teacher, ImportedModel)
    return not asks_teacher and (base.sampling.rationales is None or not arm.name.startswith("copies-"))


def runs_of(experiment: Experiment) -> list[ArmRun]:
    """All runs: every arm of the first seed, then of the next."""
    path = Path(experiment.config)
    base, wanted, suffix = base_of(experiment), chosen_arms(experiment), _SUFFIX[experiment.match]
    lengths = _lengths(experiment, base, wanted)
    found = []
    for seed in range(experiment.seeds):
        for arm in wanted:
            own = (
                f"seed={seed}", f"evaluation.use={experiment.use}", f"name={base.name}-{arm.name}-{seed}{suffix}",
                f"training.steps={lengths[arm.name]}",
            )  # fmt: skip
            assignments = (*experiment.changes, *arm.assignments(), *own)
            config = load_config(path, assignments)
            found.append(ArmRun(arm, seed, assignments, config, plan(config)))
    return found


_SUFFIX: Final = {"steps": "", "compute": "-compute"}


def _lengths(experiment: Experiment, base: RunConfig, wanted: Sequence[Arm]) -> dict[str, int]:
    """Steps by arm.

    Raises:
        ConfigError: arms are to be matched in compute, and one has no finished run with this configuration's steps.
    """
    steps = base.training.steps
    if experiment.match == "steps":
        return {arm.name: steps for arm in wanted}
    costs: dict[str, list[Compute]] = {arm.name: [] for arm in wanted}
    for run in finished_runs(runs_of(experiment.model_copy(update={"match": "steps"}))):
        costs[run.arm.name].append(run.compute)
    if missing := [name for name, found in costs.items() if not found]:
        raise ConfigError(
            f"--match compute: no finished run of {', '.join(missing)} with these settings; run them without --match first, which "
            "measures their costs"
        )
    return {name: steps_of_equal_compute(name, found, costs[experiment.against], steps) for name, found in costs.items()}


def folder_of(experiment: Experiment) -> Path:
    """The folder of the results, under the artifact root."""
    base = base_of(experiment)
    return store_of(base).root / "science" / f"{base.name}-{experiment.use}{_SUFFIX[experiment.match]}"


def _is_finished(run: ArmRun) -> bool:
    return store_of(run.config).exists("evaluation", run.planned["evaluation"].fingerprint)


def finished_runs(runs: Sequence[ArmRun]) -> Iterator[Finished]:
    """The runs whose evaluation exists."""
    for run in runs:
        store, planned = store_of(run.config), run.planned
        if _is_finished(run):
            names = ("references", "sampling", "synthesis", "training", "evaluation")
            opened = {name: store.open(name, planned[name].fingerprint) for name in names}
            compute = total_compute(run.config, opened)
            yield Finished(run.arm, run.seed, opened["references"], opened["training"], opened["evaluation"], compute)


THREADS: Final[Any] = ThreadPoolTaskRunner(max_workers=64)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="worker {number}")
def work(number: int, config: str, runs: Path) -> None:
    """Process all runs in one child process."""
    folder = runs.parent
    progress = folder / f"worker-{number}.progress"
    arguments = ["--config", config, "--runs", str(runs), "--progress", str(progress)]
    with watching(f"worker {number}") as show:
        watch(
            "experiments.worker",
            arguments,
            folder / f"worker-{number}.log",
            progress,
            show if number == 0 else lambda found: None,
        )


def run_missing(runs: Sequence[ArmRun], config: str, workers: int, folder: Path) -> None:
    """Run what is missing.

    Before the workers start, the teacher is sampled for all of them, in processes of its own, with the other shared stages of the first
    run that has the same samples: a worker that loads a second engine would pay its start again.
    """
    for run in runs:
        record(run.config, run.planned, "running")
    if not all(map(_is_finished, runs)):
        sampled: dict[tuple[str, str], ArmRun] = {}
        for run in runs:
            sampled.setdefault((run.planned["references"].fingerprint, run.planned["sampling"].fingerprint), run)
        for run in sampled.values():
            _share(run)
        listed = folder / "runs.json"
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(listed, json.dumps([run.assignments for run in runs]).encode())
        futures = [work.submit(number, config, listed) for number in range(workers)]
        for future in futures:
            future.result()
    for run in runs:
        record(run.config, run.planned, "done")


@flow(name="science", flow_run_name="{experiment.use} {experiment.config}", task_runner=THREADS)
def science(experiment: Experiment) -> dict[str, Any]:
    """Run what is missing, then compare; returns the figures of the table."""
    runs, folder = runs_of(experiment), folder_of(experiment)
    run_missing(runs, experiment.config, experiment.workers, folder)
    found = write(list(finished_runs(runs)), experiment.against, folder)
    publish(found, folder)
    return found


def _share(run: ArmRun) -> None:
    """Run the stages that the arms of a seed share."""
    for name in SHARED:
        digest = run.planned[name].fingerprint
        state: State[float] = run_stage(name, digest, run.config, return_state=True)  # type: ignore[assignment]
        seconds = state.result()
        artifact = store_of(run.config).open(name, digest)
        say_stage(name, StageOutcome(artifact, state.name == "Cached", seconds))


def publish(found: dict[str, Any], folder: Path) -> None:
    """Publish the table as a Prefect artifact, and the path of the page."""
    create_table_artifact(
        key="science",
        description=f"Per cent right; change over {found['against']} with its 95 % interval",
        table=[
            {"arm": row["arm"], "seeds": len(row["seeds"]), **{group: in_points(row[group]) for group in ("id", "ood")}}
            for row in found["arms"]
        ],
    )
    create_markdown_artifact(key="science-page", markdown=f"`{folder / 'science.html'}`")
