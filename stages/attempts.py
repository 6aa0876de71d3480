"""The base student's attempts at the training questions: a question's difficulty is their pass rate.

A part of synthesis with shards of its own, so that a kill loses one chunk of attempts at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from pipeline.config import ModelSource, Prompts, Synthesis
from pipeline.generation import Decoding, Engine, open_engine
from pipeline.grading import Outcome
from pipeline.models import load_tokenizer
from pipeline.prompts import student_prompt
from pipeline.questions import Question
from stages.progress import Progress
from stages.sampling import check_lengths, sample_seed
from storage.artifact import Draft

_CHUNK: Final = 256
_SHARDS: Final = "attempts"


def _attempts(engine: Engine, settings: Synthesis, chunk: list[tuple[Question, str]], seed: int) -> Iterator[dict[str, Any]]:
    asked = [(question, prompt, index) for question, prompt in chunk for index in range(settings.attempts)]
    seeds = [sample_seed(seed, question.id, "attempt", index) for question, _, index in asked]
    decoding = Decoding(settings.attempt_temperature, 1.0, settings.max_tokens)
    completions = engine.generate([prompt for _, prompt, _ in asked], seeds, decoding)
    for (question, _, index), item in zip(asked, completions, strict=True):
        outcome = question.grade(item.text, item.finish_reason == "stop").outcome.value
        yield {"question_id": question.id, "attempt": index, "text": item.text, "outcome": outcome}


def pass_rates(
    settings: Synthesis,
    student: ModelSource,
    prompts: Prompts,
    questions: list[Question],
    seed: int,
    out: Draft,
    progress: Progress,
) -> dict[str, float]:
    """Question id -> share of right attempts; asks only for what no shard has."""
    finished = {row for shard in out.shards(_SHARDS) for row in shard["question_id"].to_pylist()}
    missing = [(question, student_prompt(prompts, question)) for question in questions if question.id not in finished]
    progress.start("base student's attempts", len(questions), "questions", len(finished))
    if missing:
        tokenizer = load_tokenizer(student)
        texts = {question.id: prompt for question, prompt in missing}
        check_lengths(tokenizer, texts, prompts.chat, settings.max_tokens, settings.engine.max_context)
        with open_engine(settings.engine, student, prompts.chat) as engine:
            for first in range(0, len(missing), _CHUNK):
                chunk = missing[first : first + _CHUNK]
                out.write_shard(_SHARDS, pa.Table.from_pylist(list(_attempts(engine, settings, chunk, seed))))
                progress.advance(len(chunk))
    right: dict[str, list[bool]] = {question.id: [] for question in questions}
    for shard in out.shards(_SHARDS):
        for question_id, outcome in zip(shard["question_id"].to_pylist(), shard["outcome"].to_pylist(), strict=True):
            right[question_id].append(outcome == Outcome.CORRECT)
    return {question_id: sum(values) / len(values) for question_id, values in right.items()}
