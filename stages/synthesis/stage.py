"""Stage 4: perspective synthesis. Selects rationales, measures MetaNet's inputs, and warms up MetaNet.

1. The base student attempts every question; its pass rate is the question's difficulty (`stages/synthesis/attempts.py`). With
   `keep_easy: 1.0`, which keeps all questions, there are no attempts.
2. Correct, distinct rationales are kept; easy questions are down-sampled; the number of questions may be limited
   (`stages/synthesis/selection.py`).
3. Features of every kept rationale, and the base student's loss on it, are measured (`stages/synthesis/measurement.py`). With
   `teacher_top_k`, so is what the teacher says of its tokens (`stages/synthesis/soft_targets.py`).
4. MetaNet is warmed up on those losses; its scores and preferences are written per question (`stages/synthesis/metanet_scores.py`).

Steps 2 and 3 process one shard of samples at a time and commit the results under the same shard number. A kill therefore loses at most one
shard, and the result does not depend on when it happened. Writes `rationales-*.parquet`, `features-*.parquet` and, if wanted,
`soft_targets-*.parquet` (a row per question and perspective, in the same order), `sets-*.parquet` (a row per question: mask, scores, π,
fused vector), `metanet.safetensors`, and the attempts, if any.

Axes: B rationales, F features, K perspectives.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pipeline.config.engines import EngineConfig
from pipeline.config.models import TeacherField, WeightsField
from pipeline.config.prompts import Prompts
from pipeline.config.run import RunConfig
from pipeline.config.synthesis import Objective, Synthesis
from pipeline.errors import ConfigError, NothingSurvives
from pipeline.model_folders import check_model, load_tokenizer, model_content
from pipeline.perspectives.perspective import Perspective, without_forms
from pipeline.perspectives.run_perspectives import perspectives_of
from pipeline.prompt_rendering import check_prompts, student_prompt, visible_to_teacher
from pipeline.questions.question import Question
from pipeline.rationales.curation import SAMPLE, place
from pipeline.schema.fields import Frozen, identity
from pipeline.student_folder import check_student
from pipeline.teacher_scores.scores import check_scores
from pipeline.text_digests import digest
from stages.core.progress import Progress
from stages.core.summaries import SamplingSummary, SynthesisSummary
from stages.shared.finished_questions import finished_questions, training_questions
from stages.synthesis.attempts import pass_rates, sample_attempts
from stages.synthesis.question_index import QuestionIndex, look_up, mean_pass_rate, open_index, write_index
from storage.artifact import Artifact, Draft
from storage.atomic import read_parquet
from storage.errors import ArtifactError

if TYPE_CHECKING:
    from stages.synthesis.selection import Kept

NAME: Final = "synthesis"
VERSION: Final = 9
INPUTS: Final = ("questions", "sampling")

_COUNTS: Final = b"counts"
"""Key in the metadata of a shard of rationales: the number of samples that each rule dropped."""


class Config(Frozen):
    """Base student, perspectives, prompts, selection and MetaNet."""

    student: WeightsField = identity()
    perspectives: tuple[Perspective, ...] = identity()
    prompts: Prompts = identity()
    synthesis: Synthesis = identity()
    objective: Objective = identity()
    max_length: int = identity()
    precision: Literal["fp32", "bf16"] = identity()
    seed: int = identity()
    teacher: TeacherField | None = identity(None)
    """Set only with `synthesis.teacher_top_k`, and so is its engine."""
    teacher_engine: EngineConfig | None = identity(None)


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on; forms are included only if they are required."""
    perspectives = visible_to_teacher(run.prompts, perspectives_of(run))
    return Config(
        student=run.student,
        perspectives=perspectives if run.synthesis.form == "require" else without_forms(perspectives),
        prompts=run.prompts.of_rationales(),
        synthesis=run.synthesis,
        objective=run.objective,
        max_length=run.training.max_length,
        precision=run.training.precision,
        seed=run.seed,
        teacher=None if run.synthesis.teacher_top_k is None else run.teacher,
        teacher_engine=None if run.synthesis.teacher_top_k is None else run.sampling.engine,
    )


def outside(config: Config) -> dict[str, str]:
    """Content digest of the base student, of the encoder if it is another model, and of the teacher if it is asked."""
    found = {"student": model_content(config.student)}
    if config.teacher is not None:
        found["teacher"] = model_content(config.teacher)
    if config.synthesis.encoder is not None:
        found["encoder"] = model_content(config.synthesis.encoder)
    return found


def check(config: Config) -> None:
    """Check model folders and templates, and that a required form is requested by the prompt."""
    if config.synthesis.form == "require" and not any(item.form for item in config.perspectives):
        raise ConfigError(
            "synthesis.form: require, but no perspective has a form, or prompts.perspective lacks {{ instruction }}, which requests "
            "the form; add forms to the perspectives' file, add {{ instruction }}, or set form to report"
        )
    check_student(config.student)
    if config.synthesis.encoder is not None:
        check_model(config.synthesis.encoder, "synthesis.encoder")
    check_prompts(config.prompts, config.perspectives, config.student)
    if config.teacher is not None and config.synthesis.teacher_top_k is not None:
        check_model(config.teacher, "teacher")
        check_scores(config.teacher, config.student, "synthesis.teacher_top_k", config.synthesis.teacher_top_k)


QuestionStream = Callable[[], Iterator[Question]]
"""Returns a new stream of the questions that have samples: all of them, unless imported rationales cover only some."""


def _attempted(config: Config) -> bool:
    """Whether difficulties decide anything."""
    return config.synthesis.keep_easy < 1


def _lookup(config: Config, questions: QuestionStream, out: Draft) -> Path:
    """The lookup file of the questions; written if it does not exist."""
    from stages.shared.mapped_tables import derived

    path = derived(out.scratch) / "question-index.sqlite"
    if not path.exists():
        asked = ((item.id, student_prompt(config.prompts, item), item.answer, item.text) for item in questions())
        write_index(path, asked, pass_rates(out) if _attempted(config) else None)
    return path


def _is_measured(out: Draft, number: int) -> bool:
    return all(out.path(f"{name}-{number:05d}.parquet").exists() for name in ("features", "rationales"))


Select = Callable[[Path, bytes | None], tuple[list["Kept"], dict[str, int]]]
"""From a shard of samples and the largest allowed place: the kept rationales and the number dropped by each rule."""


def _selecting(config: Config, lookup: QuestionIndex) -> Select:
    from pipeline.model_thoughts import thought_form
    from stages.synthesis.selection import Student, select

    tokenizer = load_tokenizer(config.student)
    student = Student(tokenizer, config.student.dialogue, config.max_length, thought_form(tokenizer, config.student))

    def selecting(path: Path, last: bytes | None) -> tuple[list[Kept], dict[str, int]]:
        samples = read_parquet(path, SAMPLE)
        asked = look_up(lookup, samples["question_id"].unique().to_pylist())
        return select(samples, asked, config.perspectives, student, config.synthesis, last, config.seed)

    return selecting


def _last_place(config: Config, shards: Iterable[Path], selecting: Select) -> bytes | None:
    """The largest place of a kept question; None without a limit.

    With `max_questions`, rationales of all shards are selected before the first shard is measured.
    """
    limit = config.synthesis.max_questions
    if limit is None:
        return None
    found = (item.question_id for path in shards for item in selecting(path, None)[0])
    places = heapq.nsmallest(limit, {place(question_id, config.seed) for question_id in found})
    return places[-1] if places else None


def _tell(progress: Progress, of: int, measured: int) -> None:
    """Report some of the rationales of a shard."""
    progress.within(measured / of, f"{measured} more of {of} rationales of a shard")


def _measure(config: Config, sampling: Artifact, lookup: QuestionIndex, out: Draft, progress: Progress) -> None:
    """Select and measure every shard of samples that has no results yet."""
    from stages.synthesis.measurement import feature_table, losses_and_features, open_models, rationale_table

    shards = sampling.files("samples")
    missing = [(number, path) for number, path in enumerate(shards) if not _is_measured(out, number)]
    progress.start("selection, losses and features", len(shards), "shards", len(shards) - len(missing))
    if not missing:
        return
    selecting = _selecting(config, lookup)
    last = _last_place(config, shards, selecting)
    models = open_models(config.student, config.synthesis, config.precision)
    for number, path in missing:
        kept, counts = selecting(path, last)
        told = partial(_tell, progress, len(kept))
        losses_B, features_BF = losses_and_features(models, config.synthesis, config.objective.hardest, kept, told)
        rationales = rationale_table(kept, losses_B).replace_schema_metadata({_COUNTS: json.dumps(counts).encode()})
        out.write_table(f"features-{number:05d}", feature_table(kept, features_BF))
        out.write_table(f"rationales-{number:05d}", rationales)
        progress.advance(1, f"{counts['kept_rationales']} kept")


def _ask_teacher(config: Config, shards: int, lookup: QuestionIndex, out: Draft, progress: Progress) -> None:
    """Measure the soft targets, if there are to be any."""
    top_k = config.synthesis.teacher_top_k
    if top_k is None or config.teacher is None or config.teacher_engine is None:
        return
    from stages.synthesis.soft_targets import Source, measure_soft_targets

    perspectives = {item.name: item for item in config.perspectives}
    source = Source(config.teacher, config.teacher_engine, config.prompts, perspectives, config.student, top_k)

    def texts(question_ids: Iterable[str]) -> dict[str, str]:
        return {question_id: item.text for question_id, item in look_up(lookup, question_ids).items()}

    measure_soft_targets(source, shards, texts, out, progress)


def _counted(out: Draft, questions: int) -> dict[str, int]:
    """Samples and questions dropped by each rule, over all shards, which must cover all questions."""
    total = Counter[str]()
    for shard in out.shards("rationales", ["question_id"]):
        total.update(json.loads(shard.schema.metadata[_COUNTS]))
    if total["questions"] != questions:
        raise ArtifactError(f"synthesis: {total['questions']} of {questions} questions were processed; run the stage again")
    return dict(total)


def _refuse_nothing(counts: Mapping[str, int], min_perspectives: int) -> None:
    if not counts["kept_questions"]:
        counted = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise NothingSurvives(
            f"synthesis: no question keeps {min_perspectives} correct rationales ({counted}); use a stronger teacher, "
            "more sampling.tries, or a lower synthesis.min_perspectives"
        )


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> SynthesisSummary:
    """Attempts, selection, losses and features, warm-up."""
    having, total = (
        finished_questions(inputs["sampling"].batches("samples", ["question_id"])),
        SamplingSummary.of(inputs["sampling"]).questions,
    )

    def asked() -> Iterator[Question]:
        return (item for item in training_questions(inputs["questions"]) if digest(item.id) in having)

    if _attempted(config):
        sample_attempts(config.synthesis, config.student, config.prompts, asked, total, config.seed, out, progress)
    with open_index(_lookup(config, asked, out)) as lookup:
        _measure(config, inputs["sampling"], lookup, out, progress)
        counts = _counted(out, total)
        print(f"{NAME}: " + ", ".join(f"{name} {count}" for name, count in counts.items()), flush=True)
        _refuse_nothing(counts, config.synthesis.min_perspectives)
        _ask_teacher(config, len(inputs["sampling"].files("samples")), lookup, out, progress)

        from stages.synthesis.metanet_scores import warm_up_metanet, write_sets

        names = [item.name for item in config.perspectives]
        lesson = warm_up_metanet(
            config.synthesis, config.objective, names, counts["kept_questions"], config.seed, out, progress
        )
        write_sets(lesson.metanet, names, config.objective.temperature, lookup, out)
        rate = mean_pass_rate(lookup)
    return SynthesisSummary(
        **counts,
        mean_pass_rate=rate,
        warm_up_losses=lesson.losses,
        base_loss=dict(zip(names, lesson.base_loss_K, strict=True)),
        kept=dict(zip(names, lesson.kept_K, strict=True)),
    )
