"""The training stage's configuration, its external inputs, and the checks before any model loads."""

from __future__ import annotations

from pipeline.config.models import LocalModel, TeacherField, WeightsField
from pipeline.config.prompts import Prompts
from pipeline.config.run import RunConfig
from pipeline.config.synthesis import MetaNetShape, Objective
from pipeline.config.training import Training
from pipeline.errors import ConfigError, ModelError
from pipeline.model_folders import check_model, context_length, model_content
from pipeline.perspectives.perspective import Perspective, without_forms
from pipeline.perspectives.run_perspectives import perspectives_of
from pipeline.prompt_rendering import visible_to_teacher
from pipeline.schema.fields import Frozen, identity
from pipeline.student_folder import check_student
from pipeline.teacher_scores.scores import check_scores


class Config(Frozen):
    """Base student, training settings, and the perspectives of MetaNet's heads."""

    student: WeightsField = identity()
    perspectives: tuple[Perspective, ...] = identity()
    prompts: Prompts = identity()
    training: Training = identity()
    objective: Objective = identity()
    metanet: MetaNetShape = identity()
    seed: int = identity()
    teacher: TeacherField | None = identity(None)
    """Set only with `training.on_policy`."""


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    return Config(
        student=run.student,
        perspectives=without_forms(visible_to_teacher(run.prompts, perspectives_of(run))),
        prompts=run.prompts.of_training(),
        training=run.training,
        objective=run.objective,
        metanet=run.synthesis.metanet,
        seed=run.seed,
        teacher=None if run.training.on_policy is None else run.teacher,
    )


def outside(config: Config) -> dict[str, str]:
    """Content digest of the base student, and of the teacher if it is asked."""
    found = {"student": model_content(config.student)}
    return found if config.teacher is None else {**found, "teacher": model_content(config.teacher)}


def check(config: Config) -> None:
    """Check the model folder, the maximum row length, and the names of perspectives."""
    check_student(config.student)
    if config.teacher is not None and config.training.on_policy is not None:
        check_model(config.teacher, "teacher")
        check_scores(config.teacher, config.student, "training.on_policy", config.training.on_policy.top_k)
    known = [item.name for item in config.perspectives]
    for name in config.training.perspectives or ():
        if name not in known:
            raise ConfigError(f"training.perspectives: {name!r} is unknown; use some of {', '.join(known)}")
    limit = context_length(config.student.path) if isinstance(config.student, LocalModel) else None
    if limit is not None and config.training.max_length > limit:
        raise ModelError(
            f"training.max_length: {config.training.max_length} exceeds the student's context of {limit}; lower it"
        )
