"""Stage 3: samples the teacher's rationales for every question and perspective, and grades them.

A shard holds all samples of its questions and is committed atomically. A resumed run samples only questions that no shard contains,
whatever the shards' sizes, so nothing depends on positions. Every sample has its own seed, derived from question, perspective and sample
index. Questions are streamed: once to check prompt lengths and once for sampling. In memory are one shard and the digests of finished
questions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import pyarrow as pa

from pipeline.config.models import HubModel, LocalModel
from pipeline.generation.engine import Completion
from pipeline.generation.open_engine import open_engine
from pipeline.generation.servers.answer_journal import rotate
from pipeline.model_folders import load_tokenizer
from pipeline.prompt_rendering import student_prompt, teacher_prompt
from pipeline.questions.question import Question
from pipeline.text_digests import digest
from stages.core.paid_tokens import Asked, count_committed, engines_of, journal_file, spent_on, spent_so_far
from stages.core.progress import Progress
from stages.core.summaries import QuestionsSummary, SamplingSummary
from stages.sampling.judging import check_room, open_judge, verdicts
from stages.sampling.samples import JUDGED, SCHEMA, Engines, shards_of
from stages.sampling.stage_config import Config as Config
from stages.sampling.stage_config import check as check
from stages.sampling.stage_config import config_of as config_of
from stages.sampling.stage_config import outside as outside
from stages.sampling.summary import COUNTED, tally
from stages.shared.finished_questions import finished_questions, training_questions
from stages.shared.prompt_lengths import check_lengths, check_trainable
from storage.artifact import Artifact, Draft
from storage.errors import ArtifactError

NAME: Final = "sampling"
VERSION: Final = 7
INPUTS: Final = ("questions",)


def _check_prompts(config: Config, questions: Callable[[], Iterable[Question]]) -> None:
    """Check prompt lengths before the teacher is loaded, except for servers, whose tokenizers are not available.

    `questions` returns a new stream at each call.
    """
    settings, prompts = config.sampling, config.prompts
    if settings.engine.in_process and isinstance(config.teacher, LocalModel | HubModel):
        asked = (
            (question.id, teacher_prompt(prompts, question.text, item))
            for question in questions()
            for item in config.perspectives
        )
        tokenizer, turns = load_tokenizer(config.teacher), config.teacher.dialogue
        check_lengths(tokenizer, asked, turns, settings.max_tokens, settings.engine.max_context)
    if config.student is not None:
        shown = ((question.id, student_prompt(prompts, question)) for question in questions())
        check_trainable(config.student, shown, config.student_length)
    # The sample does not exist yet, so room is reserved for it.
    check_room(settings.judge, questions, settings.max_tokens)


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> SamplingSummary:
    """Sample the questions that no shard contains."""
    questions, settings = inputs["questions"], config.sampling
    if settings.rationales is not None:
        from stages.sampling.match_imported_rationales import import_rationales

        return import_rationales(config, settings.rationales, questions, out, progress)
    finished = finished_questions(out.shards("samples", ["question_id"]))

    def missing() -> Iterator[Question]:
        return (question for question in training_questions(questions) if digest(question.id) not in finished)

    _check_prompts(config, missing)
    total = QuestionsSummary.of(questions).train
    progress.start("teacher's rationales", total, "questions", len(finished))
    asked = len(config.perspectives) * settings.samples  # and more where no sample is right

    arrived, judged = journal_file(out.scratch, "teacher"), journal_file(out.scratch, "judge")
    models = {name: Asked(engine, journal_file(out.scratch, name)) for name, engine in engines_of(NAME, config).items()}
    count_committed(models["teacher"], out.shards("samples", ["prompt_tokens", "completion_tokens"]))

    def told(said: Completion) -> None:
        progress.answered(said.completion_tokens, 1 / asked, spent_so_far(models))

    tokens, seconds = 0, 0.0
    if len(finished) < total:
        schema = SCHEMA if settings.judge is None else JUDGED
        with (
            open_engine(settings.engine, config.teacher, arrived, told) as teacher,
            open_judge(settings.judge, judged) as judge,
        ):
            began = time.monotonic()
            for chunk, rows in shards_of(Engines(teacher, judge), config, missing()):
                out.write_shard("samples", pa.Table.from_pylist(rows, schema=schema))
                rotate(arrived)
                rotate(judged)
                seconds = time.monotonic() - began
                tokens += sum(row["completion_tokens"] for row in rows)
                progress.advance(len(chunk), f"{tokens / seconds:,.0f} tokens/s{spent_so_far(models)}")
    summary = tally(out.shards("samples", COUNTED), [item.name for item in config.perspectives], out.folder)
    if summary.questions != total:
        raise ArtifactError(f"sampling: {summary.questions} of {total} questions have samples; run it again")
    rate = round(tokens / seconds, 1) if seconds else None
    measured = {"tokens_per_second": rate, "judged": verdicts(settings.judge, out), "spent": spent_on(models)}
    return summary.model_copy(update=measured)
