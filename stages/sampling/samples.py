"""Samples: rows of teacher completions, graded, and judged where the rules cannot read the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple

import pyarrow as pa

from pipeline.generation.engine import Completion, Engine, sampling_decoding
from pipeline.generation.repetition import repetition
from pipeline.grading.grade import Grade, Outcome
from pipeline.perspectives.perspective import Perspective
from pipeline.prefetch import chunks, prefetch
from pipeline.prompt_rendering import stops, teacher_prompt
from pipeline.questions.question import Question, grades
from pipeline.text_digests import seed_of
from stages.sampling.judging import judge_rows
from stages.sampling.stage_config import Config

SCHEMA: Final = pa.schema(
    [
        ("question_id", pa.string()),
        ("perspective", pa.string()),
        ("sample_index", pa.int32()),
        ("seed", pa.int64()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("cumulative_logprob", pa.float64()),
        ("repetition", pa.float32()),
        ("outcome", pa.string()),
        ("answer", pa.string()),
        ("rule", pa.string()),
        ("gold", pa.string()),
    ]
)


JUDGED: Final = pa.schema([*SCHEMA, ("judged", pa.string()), ("verdict", pa.string())])
"""The schema with a judge: its reply and its verdict, if it was asked."""


def graded_row(
    question: Question, perspective: str, index: int, seed: int, completion: Completion, graded: Grade
) -> dict[str, Any]:
    """One graded sample as a row of `SCHEMA`."""
    return {
        "question_id": question.id,
        "perspective": perspective,
        "sample_index": index,
        "seed": seed,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "cumulative_logprob": completion.cumulative_logprob,
        "repetition": repetition(completion.text),
        "outcome": graded.outcome.value,
        "answer": graded.answer,
        "rule": graded.rule,
        "gold": question.answer,
    }


def _sample(engine: Engine, config: Config, asked: list[tuple[Question, Perspective, int]]) -> Iterator[dict[str, Any]]:
    prompts = [teacher_prompt(config.prompts, question.text, perspective) for question, perspective, _ in asked]
    seeds = [seed_of(config.seed, question.id, item.name, index) for question, item, index in asked]
    stop = stops(config.prompts, config.prompts.perspective, config.teacher)
    decoding = replace(sampling_decoding(config.sampling), stop=stop)
    completions = engine.generate(prompts, seeds, decoding)
    graded = grades([(one[0], said.text, said.finish_reason == "stop") for one, said in zip(asked, completions, strict=True)])
    for (question, item, index), seed, completion, grade in zip(asked, seeds, completions, graded, strict=True):
        yield graded_row(question, item.name, index, seed, completion, grade)


def _sample_batch(engines: Engines, config: Config, asked: list[tuple[Question, Perspective, int]]) -> list[dict[str, Any]]:
    """Sample one batch of requests. The judge is asked about samples that have text but no parsable answer."""
    rows = list(_sample(engines.teacher, config, asked))
    judge_rows(engines.judge, config.sampling.judge, rows, [question for question, _, _ in asked])
    return rows


def _shard(engines: Engines, config: Config, questions: list[Question]) -> list[dict[str, Any]]:
    """All samples of a chunk of questions: first `samples` per perspective, then further tries while none is correct."""
    settings = config.sampling
    every = [(question, item) for question in questions for item in config.perspectives]
    rows = _sample_batch(engines, config, [(q, p, i) for q, p in every for i in range(settings.samples)])
    for index in range(settings.samples, settings.tries):
        right = {(row["question_id"], row["perspective"]) for row in rows if row["outcome"] == Outcome.CORRECT}
        again = [(q, p, index) for q, p in every if (q.id, p.name) not in right]
        if not again:
            break
        rows += _sample_batch(engines, config, again)
    order = {question.id: number for number, question in enumerate(questions)}
    return sorted(rows, key=lambda row: order[row["question_id"]])


class Engines(NamedTuple):
    """The teacher's engine, and the judge's if configured."""

    teacher: Engine
    judge: Engine | None = None


def shards_of(
    engines: Engines, config: Config, questions: Iterable[Question]
) -> Iterator[tuple[list[Question], list[dict[str, Any]]]]:
    """Yield each shard's questions and all their samples; the next shard is sampled while the caller commits one."""
    return prefetch(lambda chunk: _shard(engines, config, chunk), chunks(questions, config.sampling.questions_per_shard))
