"""Stage 2: lets the undistilled base student and the teacher answer every evaluation question greedily.

Training does not change their answers, so all students of the same questions are compared with the same references. The stage also tests
the models early: a prompt that is too long, a teacher that cannot solve the tasks, or a student that cannot be trained shows before any
expensive stage runs. Writes
`items-*.parquet` (`stages/shared/answering.py`) and a summary with both models' accuracies and a digest of the questions. With
`evaluation.draws` it also writes `draws-*.parquet` and their summary (`stages/shared/draws.py`), with `evaluation.likelihood` and
`evaluation.examples` the shards of `stages/shared/likelihoods.py` and the summary of `stages/shared/further_measurements.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipeline.analysis.accuracy_numbers import Accuracy
from pipeline.config.engines import EngineConfig
from pipeline.config.evaluation import Evaluation
from pipeline.config.models import ImportedModel, Teacher, TeacherField, WeightsField
from pipeline.config.prompts import Prompts
from pipeline.config.run import RunConfig
from pipeline.model_folders import check_model, model_content
from pipeline.schema.fields import Frozen, identity
from pipeline.student_folder import check_student
from stages.core.progress import Progress
from stages.core.summaries import ReferencesSummary
from stages.shared.answering import AnsweringModel, answer, check_prompts, evaluation_task, items_digest
from storage.artifact import Artifact, Draft

NAME: Final = "references"
VERSION: Final = 8
INPUTS: Final = ("questions",)


class Config(Frozen):
    """Both models, and their prompts and settings."""

    base: WeightsField = identity()
    teacher: TeacherField = identity()
    prompts: Prompts = identity()
    evaluation: Evaluation = identity()
    teacher_engine: EngineConfig = identity()
    """The base student uses `evaluation.engine`; a teacher may need more GPUs, or a server."""


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on.

    Prompts for sampling and training keep their defaults: they change no answer, so changing them must not invalidate this artifact.
    """
    return Config(
        base=run.student,
        teacher=run.teacher,
        prompts=Prompts(question=run.prompts.question, likelihood=run.prompts.likelihood, stop=run.prompts.stop),
        evaluation=run.evaluation,
        teacher_engine=run.teacher_engine(),
    )


def _models(config: Config) -> dict[str, Teacher]:
    """The models that answer; no teacher if only its rationales are imported."""
    models: dict[str, Teacher] = {"base": config.base}
    return models if isinstance(config.teacher, ImportedModel) else {**models, "teacher": config.teacher}


def outside(config: Config) -> dict[str, str]:
    """Content digests of both models."""
    return {name: model_content(model) for name, model in _models(config).items()}


def check(config: Config) -> None:
    """Check the model folders."""
    check_student(config.base)
    check_model(config.teacher, "teacher")


def _say(accuracy: Mapping[str, Mapping[str, Accuracy]]) -> None:
    """Print the accuracies, so that a reader of the log can stop before sampling."""
    for model, places in accuracy.items():
        shares = ", ".join(f"{place} {cell.accuracy:.1%}" for place, cell in places.items())
        print(f"{NAME}: {model} accuracy: {shares}", flush=True)


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> ReferencesSummary:
    """Generate every model's answers, one engine at a time."""
    from stages.shared.likelihoods import check_likelihoods, score
    from stages.shared.student_check import check_student

    asking = evaluation_task(inputs["questions"], config.prompts, config.evaluation)
    engines = {"base": config.evaluation.engine, "teacher": config.teacher_engine}
    models = {name: AnsweringModel(model, engines[name]) for name, model in _models(config).items()}
    check_prompts(asking, models.values())
    check_likelihoods(asking, models)
    form = check_student(config.base)
    if form.reason:
        print(f"{NAME}: the student's rationales will be padded, not packed: {form.reason}", flush=True)
    spent = answer(asking, models, out, progress)
    likely = score(asking, models, out, progress)

    from stages.shared.compare_accuracy import COUNTED, accuracies
    from stages.shared.draws import summarise_draws
    from stages.shared.further_measurements import measured_references
    from stages.shared.looping import COLUMNS, looping

    found = accuracies(out.shards("items", COUNTED), tuple(models))
    _say(found.accuracy)
    draws = config.evaluation.draws
    return ReferencesSummary(
        accuracy=found.accuracy,
        sets=found.sets,
        tokens=spent.tokens,
        tokens_per_second=spent.tokens_per_second,
        looping=looping(out.shards("items", COLUMNS)),
        spent=spent.spent,
        drawn=None if draws is None else summarise_draws(out, tuple(models)),
        further=measured_references(config.evaluation, out.shards, tuple(models), tuple(likely)),
        asked=items_digest(asking.questions, config.evaluation.use),
    )
