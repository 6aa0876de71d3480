"""Samples the base student's attempts at the training questions; a question's difficulty is its pass rate.

Part of the synthesis stage, with its own shards. A shard holds all attempts at its questions, so a kill loses at most one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import pyarrow as pa

from pipeline.config.models import Weights
from pipeline.config.prompts import Prompts
from pipeline.config.synthesis import Synthesis
from pipeline.generation.engine import Completion, Decoding, Engine
from pipeline.generation.open_engine import open_engine
from pipeline.grading.grade import Outcome
from pipeline.model_folders import load_tokenizer
from pipeline.prefetch import chunks, prefetch
from pipeline.prompt_rendering import stops, student_prompt
from pipeline.questions.question import Question, grades
from pipeline.text_digests import digest, seed_of
from stages.core.progress import Progress
from stages.shared.finished_questions import finished_questions
from stages.shared.prompt_lengths import check_lengths
from storage.artifact import Draft

_CHUNK: Final = 256
_SHARDS: Final = "attempts"


def _attempts(
    engine: Engine, settings: Synthesis, stop: tuple[str, ...], chunk: list[tuple[Question, str]], seed: int
) -> Iterator[dict[str, Any]]:
    asked = [(question, prompt, index) for question, prompt in chunk for index in range(settings.attempts)]
    seeds = [seed_of(seed, question.id, "attempt", index) for question, _, index in asked]
    decoding = Decoding(settings.attempt_temperature, 1.0, settings.max_tokens, stop=stop)
    completions = engine.generate([prompt for _, prompt, _ in asked], seeds, decoding)
    graded = grades([(one[0], said.text, said.finish_reason == "stop") for one, said in zip(asked, completions, strict=True)])
    for (question, _, index), item, grade in zip(asked, completions, graded, strict=True):
        yield {"question_id": question.id, "attempt": index, "text": item.text, "outcome": grade.outcome.value}


def sample_attempts(
    settings: Synthesis,
    student: Weights,
    prompts: Prompts,
    questions: Callable[[], Iterable[Question]],
    total: int,
    seed: int,
    out: Draft,
    progress: Progress,
) -> None:
    """Generate the missing attempts. `questions` returns a new stream of all `total` questions at each call."""
    finished = finished_questions(out.shards(_SHARDS, ["question_id"]))

    def missing() -> Iterator[tuple[Question, str]]:
        every = (question for question in questions() if digest(question.id) not in finished)
        return ((question, student_prompt(prompts, question)) for question in every)

    progress.start("base student's attempts", total, "questions", len(finished))
    if len(finished) == total:
        return
    asked = ((question.id, prompt) for question, prompt in missing())
    check_lengths(load_tokenizer(student), asked, student.dialogue, settings.max_tokens, settings.engine.max_context)
    stop = stops(prompts, prompts.question, student)

    def told(said: Completion) -> None:
        progress.answered(said.completion_tokens, 1 / settings.attempts)

    with open_engine(settings.engine, student, told=told) as engine:
        every = chunks(missing(), _CHUNK)
        for chunk, rows in prefetch(lambda chunk: list(_attempts(engine, settings, stop, chunk, seed)), every):
            out.write_shard(_SHARDS, pa.Table.from_pylist(rows))
            progress.advance(len(chunk))


def pass_rates(out: Draft) -> Iterator[tuple[str, float]]:
    """The id of every attempted question and its share of correct attempts."""
    for shard in out.shards(_SHARDS, ["question_id", "outcome"]):
        right: dict[str, list[bool]] = {}
        for question_id, outcome in zip(shard["question_id"].to_pylist(), shard["outcome"].to_pylist(), strict=True):
            right.setdefault(question_id, []).append(outcome == Outcome.CORRECT)
        for question_id, values in right.items():
            yield question_id, sum(values) / len(values)
