"""Stage 6: lets the trained student answer every evaluation question and tests its changes against the base for significance.

The base and the teacher are not asked again: the stage `references` holds their answers to the same items. Writes `items-*.parquet` with
the student's answers (`stages/shared/answering.py`) and a summary of all three models (`stages/shared/compare_accuracy.py`). With
`evaluation.draws` it also writes `draws-*.parquet` and their summary (`stages/shared/draws.py`), with `evaluation.likelihood` and
`evaluation.examples` the shards of `stages/shared/likelihoods.py` and the summary of `stages/shared/further_measurements.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Final

from pipeline.config.evaluation import Evaluation
from pipeline.config.models import LocalModel, Turns
from pipeline.config.prompts import Prompts
from pipeline.config.run import RunConfig
from pipeline.schema.fields import Frozen, identity
from stages.core.progress import Progress
from stages.core.summaries import EvaluationSummary, ReferencesSummary
from stages.shared.answering import AnsweringModel, answer, check_prompts, evaluation_task, items_digest
from storage.artifact import Artifact, Draft
from storage.errors import ArtifactError

NAME: Final = "evaluation"
VERSION: Final = 10
INPUTS: Final = ("questions", "references", "training")


class Config(Frozen):
    """The student's prompts and the settings of evaluation and comparison."""

    prompts: Prompts = identity()
    evaluation: Evaluation = identity()
    chat: bool = identity(True)
    turns: Turns | None = identity(None)


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    student = run.student
    return Config(prompts=run.prompts, evaluation=run.evaluation, chat=student.chat, turns=student.turns)


def outside(config: Config) -> dict[str, str]:
    """Nothing: the inputs' fingerprints cover all models."""
    return {}


def check(config: Config) -> None:
    """Nothing to check before the stage runs."""


def _refuse_others(questions: Artifact, references: Artifact, use: str) -> None:
    """Reject references of other items, before the student is loaded."""
    if ReferencesSummary.of(references).asked != items_digest(questions, use):
        raise ArtifactError(
            f"{references.name}: base and teacher answered different items than those of {questions.name} for {use}; "
            "run the references stage on these questions"
        )


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> EvaluationSummary:
    """Generate the student's answers and compare them with the references.

    Raises:
        ArtifactError: the references are of other items.
    """
    questions, references, settings = inputs["questions"], inputs["references"], config.evaluation
    _refuse_others(questions, references, settings.use)
    student = LocalModel(path=inputs["training"].path("student"), chat=config.chat, turns=config.turns)
    from stages.shared.likelihoods import check_likelihoods, score

    asking = evaluation_task(questions, config.prompts, settings)
    models = {"student": AnsweringModel(student, settings.engine)}
    check_prompts(asking, models.values())
    check_likelihoods(asking, models)
    spent = answer(asking, models, out, progress)
    score(asking, models, out, progress)

    from stages.shared.compare_accuracy import COUNTED, summarise
    from stages.shared.draws import DRAWS_COUNTED, compare_draws, summarise_draws
    from stages.shared.further_measurements import measured_student
    from stages.shared.looping import COLUMNS, looping

    tables = chain(references.batches("items", COUNTED), out.shards("items", COUNTED))
    asked = ReferencesSummary.of(references)
    found = summarise(tables, tuple(asked.accuracy))
    drawn = drawn_against_base = None
    if settings.draws is not None:
        drawn = {**(asked.drawn or {}), **summarise_draws(out, ("student",))}
        base, draws = references.batches("draws", DRAWS_COUNTED), out.shards("draws", DRAWS_COUNTED)
        drawn_against_base = compare_draws((base, "base"), (draws, "student"))
    return EvaluationSummary(
        accuracy=found.accuracy,
        sets=found.sets,
        student_against_base=found.student_against_base,
        forgetting=found.forgetting,
        tokens=spent.tokens,
        tokens_per_second=spent.tokens_per_second,
        looping={**asked.looping, **looping(out.shards("items", COLUMNS))},
        spent=spent.spent,
        drawn=drawn,
        drawn_against_base=drawn_against_base,
        further=measured_student(settings, references.batches, out.shards, asked.further or {}),
    )
