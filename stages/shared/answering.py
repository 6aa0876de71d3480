"""Generates and grades models' answers to all evaluation questions; used by the stages `references` and `evaluation`.

Each model answers the items of all sets through one engine. Greedy answers go to the shards `items` (one row per model and item). If
`evaluation.draws` is set, sampled answers go to the shards `draws` (one row per model, item and draw). A resumed run generates only answers
that no shard contains. Questions are streamed: once to check prompt lengths and once per round, in the same order for every model.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.engines import EngineConfig
from pipeline.config.evaluation import Evaluation
from pipeline.config.models import HubModel, LocalModel, Teacher
from pipeline.config.prompts import Prompts
from pipeline.generation.answer_journal import rotate
from pipeline.generation.engine import Completion, Decoding, Engine
from pipeline.generation.open_engine import open_engine
from pipeline.model_folders import load_tokenizer
from pipeline.prefetch import chunks, prefetch
from pipeline.prompt_rendering import stops, student_prompt
from pipeline.questions.question import Question, from_table, grades
from pipeline.text_digests import digest, seed_of
from stages.core.progress import Progress
from stages.shared.finished_questions import answer_journal_file, finished_questions
from stages.shared.prompt_lengths import check_lengths
from storage.artifact import Artifact, Draft

SCHEMA: Final = pa.schema(
    [
        ("model", pa.string()),
        ("group", pa.string()),
        ("set", pa.string()),
        ("question_id", pa.string()),
        ("repeats", pa.string()),
        ("outcome", pa.string()),
        ("answer", pa.string()),
        ("gold", pa.string()),
        ("rule", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("text", pa.string()),
    ]
)
DRAWN: Final = SCHEMA.append(pa.field("sample_index", pa.int32()))


class AskedItem(NamedTuple):
    """One question of an evaluation set. `repeats` names the earlier set that also contains it, if any."""

    group: str
    set: str
    repeats: str
    question: Question


class EvaluationTask(NamedTuple):
    """The questions, prompts and settings of an evaluation."""

    questions: Artifact
    prompts: Prompts
    settings: Evaluation


class AnsweringModel(NamedTuple):
    """A model that answers, and its engine's settings."""

    model: Teacher
    engine: EngineConfig


def _wanted(questions: Artifact, use: str) -> Iterator[pa.RecordBatch]:
    for batch in questions.batches("questions", rows=1024):
        yield batch.filter(pc.equal(batch["use"], use))


def items_digest(questions: Artifact, use: str) -> str:
    """A digest of all questions of one use, in order: equal digests mean identical questions."""
    found = hashlib.sha256()
    for wanted in _wanted(questions, use):
        for row in wanted.to_pylist():
            found.update(orjson.dumps(row))
    return found.hexdigest()


def items(asking: EvaluationTask) -> Iterator[AskedItem]:
    """All evaluation items, in order."""
    for wanted in _wanted(asking.questions, asking.settings.use):
        marks = (wanted[name].to_pylist() for name in ("role", "set", "repeats"))
        yield from map(AskedItem, *marks, from_table(wanted))


def _count(asking: EvaluationTask) -> int:
    batches = asking.questions.batches("questions", ["use"], rows=1 << 16)
    return sum(pc.sum(pc.equal(batch["use"], asking.settings.use)).as_py() for batch in batches)


def _check_prompts(asking: EvaluationTask, models: Iterable[AnsweringModel]) -> None:
    """Check prompt lengths before any model is loaded."""
    prompts, settings = asking.prompts, asking.settings
    for model, engine in models:
        if not isinstance(model, LocalModel | HubModel):  # the server's tokenizer is not available here
            continue
        every = ((item.question.id, student_prompt(prompts, item.question)) for item in items(asking))
        check_lengths(load_tokenizer(model), every, model.dialogue, settings.max_tokens, engine.max_context)


class Round(NamedTuple):
    """One pass over all items: prefix and schema of its shards, decoding, and the number of answers per item."""

    prefix: str
    schema: pa.Schema
    decoding: Decoding
    answers: int


def rounds(settings: Evaluation) -> list[Round]:
    """The greedy round and, with `evaluation.draws`, the sampled round."""
    greedy = Round("items", SCHEMA, Decoding(0.0, 1.0, settings.max_tokens), 1)
    if settings.draws is None:
        return [greedy]
    how = Decoding(settings.draws.temperature, settings.draws.top_p, settings.max_tokens)
    return [greedy, Round("draws", DRAWN, how, settings.draws.count)]


def _rows(
    asking: EvaluationTask, name: str, engine: Engine, stop: tuple[str, ...], turn: Round, chunk: list[AskedItem]
) -> list[dict[str, Any]]:
    """One model's graded answers to a chunk of items."""
    asked_for = [(item, index) for item in chunk for index in range(turn.answers)]
    prompts = [student_prompt(asking.prompts, item.question) for item, _ in asked_for]
    seeds = [seed_of(item.question.id, "draw", index) for item, index in asked_for]  # the same for every model and run
    rows = []
    answers = engine.generate(prompts, seeds, replace(turn.decoding, stop=stop))
    found = grades(
        [(item.question, said.text, said.finish_reason == "stop") for (item, _), said in zip(asked_for, answers, strict=True)]
    )
    for (item, index), answer, graded in zip(asked_for, answers, found, strict=True):
        rows.append(
            {
                "model": name,
                "group": item.group,
                "set": item.set,
                "question_id": item.question.id,
                "repeats": item.repeats,
                "outcome": graded.outcome.value,
                "answer": graded.answer,
                "gold": item.question.answer,
                "rule": graded.rule,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "text": answer.text,
                "sample_index": index,
            }
        )
    return rows


def _answer(
    asking: EvaluationTask, name: str, who: AnsweringModel, finished: Mapping[str, set[int]], out: Draft, progress: Progress
) -> tuple[int, float]:
    """Generate the missing answers of each round; returns tokens and seconds."""
    tokens, seconds = 0, 0.0
    arrived = answer_journal_file(out, name)
    stop = stops(asking.prompts, asking.prompts.question, who.model)

    def told(said: Completion) -> None:
        progress.answered(said.completion_tokens, 1 / turn.answers)

    with open_engine(who.engine, who.model, arrived, told) as engine:
        began = time.monotonic()
        for turn in rounds(asking.settings):
            done = finished[turn.prefix]
            missing = (item for item in items(asking) if digest(item.question.id) not in done)
            shards = chunks(missing, max(1, asking.settings.items_per_shard // turn.answers))
            for chunk, rows in prefetch(partial(_rows, asking, name, engine, stop, turn), shards):
                out.write_shard(turn.prefix, pa.Table.from_pylist(rows, schema=turn.schema))
                rotate(arrived)
                seconds = time.monotonic() - began
                tokens += sum(row["completion_tokens"] for row in rows)
                progress.advance(len(chunk), f"{name}: {tokens / seconds:,.0f} tokens/s")
    return tokens, seconds


def _finished(out: Draft, name: str, prefix: str) -> set[int]:
    """Digests of the questions that one model has answered in some shard."""
    shards = out.shards(prefix, ["model", "question_id"])
    return finished_questions(shard.filter(pc.equal(shard["model"], name)) for shard in shards)


class Generated(NamedTuple):
    """Tokens of all answers, and tokens per second of those that this process generated, if any."""

    tokens: int
    tokens_per_second: float | None


def answer(asking: EvaluationTask, models: Mapping[str, AnsweringModel], out: Draft, progress: Progress) -> Generated:
    """Generate every model's missing answers, one engine at a time.

    Raises:
        QuestionError: a prompt leaves a model no room for an answer.
    """
    _check_prompts(asking, models.values())
    prefixes = [turn.prefix for turn in rounds(asking.settings)]
    total = _count(asking)
    finished = {name: {prefix: _finished(out, name, prefix) for prefix in prefixes} for name in models}
    there = sum(len(done) for of_model in finished.values() for done in of_model.values())
    what = "greedy answers" if len(prefixes) == 1 else "greedy and sampled answers"
    progress.start(what, total * len(models) * len(prefixes), "items", there)
    tokens, seconds = 0, 0.0
    for name, model in models.items():
        if any(len(done) < total for done in finished[name].values()):
            more = _answer(asking, name, model, finished[name], out, progress)
            tokens, seconds = tokens + more[0], seconds + more[1]
    counts = (
        pc.sum(shard["completion_tokens"]).as_py() for prefix in prefixes for shard in out.shards(prefix, ["completion_tokens"])
    )
    return Generated(sum(counts), round(tokens / seconds, 1) if seconds else None)
