"""Stage 5: base, teacher and student answer every evaluation question greedily; what changed, and is it real.

All sets of one model go through one engine, and each chunk of items is committed. Questions stream by, the same ones for each model.
Writes `items-*.parquet` (a row per model and item) and a summary (`stages/comparison.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.chunks import chunks
from pipeline.config import Evaluation, Frozen, ModelSource, Prompts, RunConfig, identity
from pipeline.digests import digest
from pipeline.generation import Decoding, Engine, open_engine
from pipeline.models import check_model, load_tokenizer, model_content
from pipeline.prompts import student_prompt
from pipeline.questions import Question, from_table
from stages.progress import Progress
from stages.sampling import check_lengths, finished_questions
from storage.artifact import Artifact, Draft

NAME: Final = "evaluation"
VERSION: Final = 1
INPUTS: Final = ("questions", "training")

SCHEMA: Final = pa.schema(
    [
        ("model", pa.string()),
        ("group", pa.string()),
        ("set", pa.string()),
        ("question_id", pa.string()),
        ("outcome", pa.string()),
        ("answer", pa.string()),
        ("gold", pa.string()),
        ("rule", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("cumulative_logprob", pa.float64()),
        ("text", pa.string()),
    ]
)


class Config(Frozen):
    """The models beside the student, and how all answer."""

    base: ModelSource = identity()
    teacher: ModelSource = identity()
    prompts: Prompts = identity()
    evaluation: Evaluation = identity()
    seed: int = identity()


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    return Config(base=run.student, teacher=run.teacher, prompts=run.prompts, evaluation=run.evaluation, seed=run.seed)


def outside(config: Config) -> dict[str, str]:
    """Both models' content."""
    return {"base": model_content(config.base), "teacher": model_content(config.teacher)}


def check(config: Config) -> None:
    """Model folders."""
    check_model(config.base, "student")
    if config.evaluation.engine.kind != "openai":
        check_model(config.teacher, "teacher")


class _Item(NamedTuple):
    """One question of one evaluation set."""

    group: str
    set: str
    question: Question


def _items(config: Config, questions: Artifact) -> Iterator[_Item]:
    """Everything that is evaluated, in order."""
    for batch in questions.batches("questions", rows=1024):
        wanted = batch.filter(pc.equal(batch["use"], config.evaluation.use))
        columns = (wanted["role"].to_pylist(), wanted["set"].to_pylist(), from_table(wanted))
        yield from map(_Item, *columns)


def _count(config: Config, questions: Artifact) -> int:
    batches = questions.batches("questions", ["use"], rows=1 << 16)
    return sum(pc.sum(pc.equal(batch["use"], config.evaluation.use)).as_py() for batch in batches)


def _rows(config: Config, name: str, engine: Engine, chunk: list[_Item]) -> list[dict[str, Any]]:
    """One model's answers to some items, graded."""
    prompts = [student_prompt(config.prompts, item.question) for item in chunk]
    decoding = Decoding(0.0, 1.0, config.evaluation.max_tokens)
    rows = []
    for item, answer in zip(chunk, engine.generate(prompts, [0] * len(chunk), decoding), strict=True):
        graded = item.question.grade(answer.text, answer.finish_reason == "stop")
        rows.append(
            {
                "model": name,
                "group": item.group,
                "set": item.set,
                "question_id": item.question.id,
                "outcome": graded.outcome.value,
                "answer": graded.answer,
                "gold": item.question.answer,
                "rule": graded.rule,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "cumulative_logprob": answer.cumulative_logprob,
                "text": answer.text,
            }
        )
    return rows


def _answer(
    config: Config, name: str, model: ModelSource, questions: Artifact, total: int, out: Draft, progress: Progress
) -> tuple[int, float]:
    """Answer what no shard has; returns tokens and seconds."""
    shards = out.shards("items", ["model", "question_id"])
    finished = finished_questions(shard.filter(pc.equal(shard["model"], name)) for shard in shards)
    progress.advance(len(finished))
    tokens, seconds = 0, 0.0
    if len(finished) == total:
        return tokens, seconds
    missing = (item for item in _items(config, questions) if digest(item.question.id) not in finished)
    settings = config.evaluation
    with open_engine(settings.engine, model, config.prompts.chat) as engine:
        for chunk in chunks(missing, settings.items_per_shard):
            began = time.monotonic()
            rows = _rows(config, name, engine, chunk)
            out.write_shard("items", pa.Table.from_pylist(rows, schema=SCHEMA))
            seconds += time.monotonic() - began
            tokens += sum(row["completion_tokens"] for row in rows)
            progress.advance(len(chunk), f"{name}: {tokens / seconds:,.0f} tokens/s")
    return tokens, seconds


def _check_prompts(config: Config, questions: Artifact) -> None:
    """Before any model is loaded."""
    settings = config.evaluation
    for source in (config.base, config.teacher):
        prompts = ((item.question.id, student_prompt(config.prompts, item.question)) for item in _items(config, questions))
        check_lengths(load_tokenizer(source), prompts, config.prompts.chat, settings.max_tokens, settings.engine.max_context)


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> dict[str, Any]:
    """Three models, one engine each."""
    questions = inputs["questions"]
    models = {
        "base": config.base,
        "teacher": config.teacher,
        "student": ModelSource(path=inputs["training"].path("student")),
    }
    _check_prompts(config, questions)
    total = _count(config, questions)
    progress.start("greedy answers", total * len(models), "items")
    tokens, seconds = 0, 0.0
    for name, model in models.items():
        more = _answer(config, name, model, questions, total, out, progress)
        tokens, seconds = tokens + more[0], seconds + more[1]

    from stages.comparison import COUNTED, summarise

    return {
        **summarise(out.shards("items", COUNTED), list(models), config.evaluation.bootstrap, config.seed),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
    }


if __name__ == "__main__":
    from stages.process import main

    main(NAME)
