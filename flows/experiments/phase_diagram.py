"""Repeats the experiment over students and numbers of questions, as a Prefect flow, to find where MIND's advantage starts and ends.

A cell is the experiment of `flows/experiments/compare_arms.py` with another student and another number of training questions. The same
workers process the runs of all cells, so artifacts that cells share (questions, samples, the teacher's answers) are made once, and
everything is resumable per run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.experiments.compare_arms import (
    THREADS,
    Experiment,
    base_of,
    chosen_arms,
    finished_runs,
    folder_of,
    run_missing,
    runs_of,
)
from pipeline.capacity.estimate import shape_of_model
from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError
from pipeline.questions.sources import MiniatureSource
from pipeline.schema.fields import Frozen
from stages.experiments.comparison import compare
from stages.experiments.phase_page import Cell, write


class Phase(Frozen):
    """An experiment, repeated with several students and numbers of questions."""

    experiment: Experiment
    students: dict[str, str] = Field(min_length=1, description="folders of base students by name, smallest first")
    questions: tuple[int, ...] = Field(min_length=1, description="numbers of training questions, over all sources")


class CellSpec(NamedTuple):
    """A cell: the student's name, its number of questions, and its experiment."""

    student: str
    questions: int
    experiment: Experiment


def _sources(base: RunConfig, questions: int) -> str:
    """The training sources with `questions` questions in total, evenly divided, in the form that `--set` takes."""
    sources = base.questions.train
    each, left = divmod(questions, len(sources))
    if left:
        raise ConfigError(
            f"--questions {questions}: not divisible by the {len(sources)} sources; give a multiple of {len(sources)}"
        )

    found = [
        source.model_copy(update={"count" if isinstance(source, MiniatureSource) else "sample": each}) for source in sources
    ]
    return json.dumps([source.model_dump(mode="json", exclude_none=True) for source in found])


def cells_of(phase: Phase) -> list[CellSpec]:
    """All cells.

    Raises:
        ConfigError: no arm is a baseline, or the questions cannot be divided evenly.
    """
    base = base_of(phase.experiment)
    if not any(arm.kind == "baseline" for arm in chosen_arms(phase.experiment)):
        raise ConfigError("--arms: none is a baseline to compare with; add one, for example uniform")
    return [
        CellSpec(name, questions, _at(phase.experiment, base, name, Path(folder).resolve(), questions))
        for name, folder in phase.students.items()
        for questions in phase.questions
    ]


def _at(experiment: Experiment, base: RunConfig, name: str, student: Path, questions: int) -> Experiment:
    """The experiment of one cell."""
    changes = (
        *experiment.changes,
        f"student={json.dumps({'path': str(student)})}",
        f"questions.train={_sources(base, questions)}",
        f"name={base.name}-{name}-{questions}",
    )
    return experiment.model_copy(update={"changes": changes})


def folder_of_phase(phase: Phase) -> Path:
    """The folder of the results, beside the experiment's."""
    folder = folder_of(phase.experiment)
    return folder.with_name(f"{folder.name}-phase")


@flow(name="phase", flow_run_name="{phase.experiment.use} {phase.experiment.config}", task_runner=THREADS)
def phase(phase: Phase) -> dict[str, Any]:
    """Run what is missing in every cell, then compare within each; returns the figures by cell."""
    experiment, folder = phase.experiment, folder_of_phase(phase)
    cells = [(place, runs_of(place.experiment)) for place in cells_of(phase)]
    every = [run for _, runs in cells for run in runs]
    run_missing(every, experiment.config, experiment.workers, folder)
    compared = [
        Cell(
            place.student,
            shape_of_model(runs[0].config.student).parameters,
            place.questions,
            compare(list(finished_runs(runs)), experiment.against),
        )
        for place, runs in cells
    ]
    found = write(compared, folder)
    create_markdown_artifact(key="phase-page", markdown=f"`{folder / 'phase.html'}`")
    return found
