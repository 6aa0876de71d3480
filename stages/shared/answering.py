"""Generates and grades models' answers to all evaluation questions; used by the stages `references` and `evaluation`.

Each model answers the items of all sets through one engine. Greedy answers go to the shards `items` (one row per model and item). If
`evaluation.draws` is set, sampled answers go to the shards `draws` (one row per model, item and draw). If `evaluation.examples` is set,
greedy answers with worked examples before the question go to the shards `few_shot`. A resumed run generates only answers that no shard
contains. Questions are streamed: once to check prompt lengths and once per round, in the same order for every model.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.capacity.machine import require_room
from pipeline.config.engines import EngineConfig
from pipeline.config.evaluation import Evaluation
from pipeline.config.models import HubModel, LocalModel, Teacher
from pipeline.config.prompts import Prompts
from pipeline.errors import QuestionError
from pipeline.generation.engine import Completion, Decoding, Engine
from pipeline.generation.open_engine import open_engine
from pipeline.generation.repetition import repetition
from pipeline.generation.servers.answer_journal import rotate
from pipeline.model_folders import load_tokenizer
from pipeline.prefetch import chunks, prefetch
from pipeline.prompt_rendering import Prompt, WorkedPrompt, stops, stops_with_examples, student_prompt
from pipeline.questions.question import Question, from_table, grades
from pipeline.text_digests import digest, seed_of
from pipeline.worked_examples import example_pool, examples_for, worked
from stages.core.paid_tokens import Asked, count_committed, journal_file, spent_on, spent_so_far
from stages.core.progress import Progress
from stages.core.summaries import Spent
from stages.shared.finished_questions import finished_questions, training_questions
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
        ("repetition", pa.float32()),
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
    """The questions, prompts and settings of an evaluation, and the worked examples of each set if it has any."""

    questions: Artifact
    prompts: Prompts
    settings: Evaluation
    examples: Mapping[str, tuple[Question, ...]] = MappingProxyType({})


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


def evaluation_task(questions: Artifact, prompts: Prompts, settings: Evaluation) -> EvaluationTask:
    """The task, with the worked examples of every set.

    Raises:
        QuestionError: there are fewer training questions than examples are wanted.
    """
    asking, count = EvaluationTask(questions, prompts, settings), settings.examples
    if count is None:
        return asking
    pool = example_pool(training_questions(questions), count)
    there = sum(map(len, pool.values()))
    if there < count:
        raise QuestionError(
            f"evaluation.examples: {count} worked examples are wanted, but there are only {there} training questions; lower it, or add "
            "training questions"
        )
    types: dict[str, set[str]] = {}
    for item in items(asking):
        types.setdefault(item.set, set()).add(item.question.answer_type)
    return asking._replace(examples={name: examples_for(pool, found, count) for name, found in types.items()})


def _prompt(asking: EvaluationTask, item: AskedItem, examples: bool) -> Prompt:
    asked = student_prompt(asking.prompts, item.question)
    if not examples:
        return asked
    return WorkedPrompt(tuple(worked(asking.prompts, example) for example in asking.examples[item.set]), asked)


def check_prompts(asking: EvaluationTask, models: Iterable[AnsweringModel]) -> None:
    """Check prompt lengths, and that this machine has room for the models' replicas, before any model is loaded.

    Raises:
        ConfigError: too few GPUs or cores for `engine.replicas`.
        QuestionError: a prompt leaves a model no room for an answer.
    """
    settings = asking.settings
    for model, engine in models:
        require_room(engine)
        if not isinstance(model, LocalModel | HubModel):  # the server's tokenizer is not available here
            continue
        tokenizer = load_tokenizer(model)
        for turn in rounds(settings):
            if turn.prefix == "draws":  # the prompts of the greedy round
                continue
            every = ((item.question.id, _prompt(asking, item, turn.examples)) for item in items(asking))
            whose = f"its prompt with {settings.examples} examples (evaluation.examples)" if turn.examples else "its prompt"
            check_lengths(tokenizer, every, model.dialogue, settings.max_tokens, engine.max_context, whose)


class Round(NamedTuple):
    """One pass over all items: prefix and schema of its shards, decoding, answers per item, and whether examples precede the question."""

    prefix: str
    schema: pa.Schema
    decoding: Decoding
    answers: int
    examples: bool = False


def rounds(settings: Evaluation) -> list[Round]:
    """The greedy round and, if they are set, the sampled round and the one with examples."""
    greedy = Decoding(0.0, 1.0, settings.max_tokens)
    found = [Round("items", SCHEMA, greedy, 1)]
    if settings.draws is not None:
        how = Decoding(settings.draws.temperature, settings.draws.top_p, settings.max_tokens)
        found.append(Round("draws", DRAWN, how, settings.draws.count))
    if settings.examples is not None:
        found.append(Round("few_shot", SCHEMA, greedy, 1, examples=True))
    return found


def whose(model: str, item: AskedItem) -> dict[str, str]:
    """The columns that say which model's row about which item it is."""
    about = {"group": item.group, "set": item.set, "question_id": item.question.id, "repeats": item.repeats}
    return {"model": model, **about}


def _rows(
    asking: EvaluationTask, name: str, engine: Engine, model: Teacher, turn: Round, chunk: list[AskedItem]
) -> list[dict[str, Any]]:
    """One model's graded answers to a chunk of items."""
    asked_for = [(item, index) for item in chunk for index in range(turn.answers)]
    prompts = [_prompt(asking, item, turn.examples) for item, _ in asked_for]
    stop = (stops_with_examples if turn.examples else stops)(asking.prompts, asking.prompts.question, model)
    seeds = [seed_of(item.question.id, "draw", index) for item, index in asked_for]  # the same for every model and run
    rows = []
    answers = engine.generate(prompts, seeds, replace(turn.decoding, stop=stop))
    found = grades(
        [(item.question, said.text, said.finish_reason == "stop") for (item, _), said in zip(asked_for, answers, strict=True)]
    )
    for (item, index), answer, graded in zip(asked_for, answers, found, strict=True):
        rows.append(
            {
                **whose(name, item),
                "outcome": graded.outcome.value,
                "answer": graded.answer,
                "gold": item.question.answer,
                "rule": graded.rule,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "repetition": repetition(answer.text),
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
    arrived = journal_file(out.scratch, name)
    paid = {name: Asked(who.engine, arrived)}

    def told(said: Completion) -> None:
        progress.answered(said.completion_tokens, 1 / turn.answers, spent_so_far(paid))

    with open_engine(who.engine, who.model, arrived, told) as engine:
        began = time.monotonic()
        for turn in rounds(asking.settings):
            done = finished[turn.prefix]
            missing = (item for item in items(asking) if digest(item.question.id) not in done)
            shards = chunks(missing, max(1, asking.settings.items_per_shard // turn.answers))
            for chunk, rows in prefetch(partial(_rows, asking, name, engine, who.model, turn), shards):
                out.write_shard(turn.prefix, pa.Table.from_pylist(rows, schema=turn.schema))
                rotate(arrived)
                seconds = time.monotonic() - began
                tokens += sum(row["completion_tokens"] for row in rows)
                progress.advance(len(chunk), f"{name}: {tokens / seconds:,.0f} tokens/s{spent_so_far(paid)}")
    return tokens, seconds


def answered(out: Draft, name: str, prefix: str) -> set[int]:
    """Digests of the questions that one model has answered in some shard."""
    shards = out.shards(prefix, ["model", "question_id"])
    return finished_questions(shard.filter(pc.equal(shard["model"], name)) for shard in shards)


class Generated(NamedTuple):
    """Tokens of all answers, tokens per second of those that this process generated, if any, and what servers were paid for."""

    tokens: int
    tokens_per_second: float | None
    spent: dict[str, Spent] | None


def answer(asking: EvaluationTask, models: Mapping[str, AnsweringModel], out: Draft, progress: Progress) -> Generated:
    """Generate every model's missing answers, one engine at a time."""
    prefixes = [turn.prefix for turn in rounds(asking.settings)]
    total = _count(asking)
    finished = {name: {prefix: answered(out, name, prefix) for prefix in prefixes} for name in models}
    there = sum(len(done) for of_model in finished.values() for done in of_model.values())
    kinds = {"items": "greedy", "draws": "sampled", "few_shot": "few-shot"}
    what = f"{' and '.join(kinds[prefix] for prefix in prefixes)} answers"
    progress.start(what, total * len(models) * len(prefixes), "items", there)
    tokens, seconds = 0, 0.0
    paid = {name: Asked(model.engine, journal_file(out.scratch, name)) for name, model in models.items()}
    for name, model in models.items():
        count_committed(paid[name], _answers_of(name, prefixes, out))
        if any(len(done) < total for done in finished[name].values()):
            more = _answer(asking, name, model, finished[name], out, progress)
            tokens, seconds = tokens + more[0], seconds + more[1]
    counts = (
        pc.sum(shard["completion_tokens"]).as_py() for prefix in prefixes for shard in out.shards(prefix, ["completion_tokens"])
    )
    return Generated(sum(counts), round(tokens / seconds, 1) if seconds else None, spent_on(paid))


def _answers_of(name: str, prefixes: Iterable[str], out: Draft) -> Iterator[pa.Table]:
    for prefix in prefixes:
        for shard in out.shards(prefix, ["model", "prompt_tokens", "completion_tokens"]):
            yield shard.filter(pc.equal(shard["model"], name))
