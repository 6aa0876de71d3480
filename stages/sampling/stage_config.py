"""The sampling stage's configuration, its external inputs, and the checks before any model loads."""

from __future__ import annotations

from pipeline.config.models import ImportedModel, TeacherField, WeightsField
from pipeline.config.prompts import Prompts
from pipeline.config.run import RunConfig
from pipeline.config.sampling import Sampling
from pipeline.model_folders import check_model, model_content
from pipeline.perspectives.perspective import Perspective, without_forms
from pipeline.perspectives.run_perspectives import perspectives_of
from pipeline.prompt_rendering import check_prompts, visible_to_teacher
from pipeline.rationales.read_imported_rows import check as check_imported
from pipeline.rationales.read_imported_rows import content as imported_content
from pipeline.schema.fields import Frozen, identity, runtime
from stages.sampling.judging import check_judge


class Config(Frozen):
    """Teacher, perspectives, prompts and decoding."""

    teacher: TeacherField = identity()
    perspectives: tuple[Perspective, ...] = identity()
    prompts: Prompts = identity()
    sampling: Sampling = identity()
    seed: int = identity()
    student: WeightsField | None = runtime(None)
    """The student to be trained. No sample depends on it, but a question that is too long to train on is rejected before sampling."""
    student_length: int = runtime(0)


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    if run.sampling.rationales is not None:  # no model is asked, so the samples depend on no teacher or prompt
        kept = ("rationales", "judge", "questions_per_shard")
        given = Sampling.model_validate({name: getattr(run.sampling, name) for name in kept})
        nobody = ImportedModel(imported=True)
        perspectives = without_forms(perspectives_of(run))
        return Config(teacher=nobody, perspectives=perspectives, prompts=Prompts(), sampling=given, seed=run.seed)
    return Config(
        teacher=run.teacher,
        perspectives=without_forms(visible_to_teacher(run.prompts, perspectives_of(run))),
        prompts=run.prompts.of_rationales(),
        sampling=run.sampling,
        seed=run.seed,
        student=run.student,
        student_length=run.training.max_length,
    )


def outside(config: Config) -> dict[str, str]:
    """Content digest of a local teacher or of imported rationales, and of a local judge; served models are identified by their names."""
    judge = config.sampling.judge
    judged = {} if judge is None or not judge.engine.in_process else {"judge": model_content(judge.model)}
    if config.sampling.rationales is not None:
        return {"rationales": imported_content(config.sampling.rationales), **judged}
    return {"teacher": model_content(config.teacher), **judged} if config.sampling.engine.in_process else judged


def check(config: Config) -> None:
    """Check model folders and templates, and the first imported rationales."""
    check_judge(config.sampling.judge)
    if config.sampling.rationales is not None:
        check_imported(config.sampling.rationales, tuple(item.name for item in config.perspectives))
        return
    if config.sampling.engine.in_process:
        check_model(config.teacher, "teacher")
    check_prompts(config.prompts, config.perspectives, config.teacher)
