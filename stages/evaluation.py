"""Stage 5: base, teacher and student answer every evaluation question greedily; what changed, and is it real.

All sets of one model go through one engine, and each chunk of items is committed. Writes `items-*.parquet` (a row per model and item)
and a summary: accuracy with Wilson intervals, unparsed and truncated beside wrong, paired tests of student against base,
forgetting per out-of-distribution set.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Evaluation, Frozen, ModelSource, Prompts, RunConfig, identity
from pipeline.generation import Decoding, open_engine
from pipeline.grading import Outcome
from pipeline.models import check_model, load_tokenizer, model_content
from pipeline.prompts import student_prompt
from pipeline.questions import Question, from_table
from stages.progress import Progress
from stages.sampling import check_lengths
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


def _answer(
    config: Config,
    name: str,
    model: ModelSource,
    items: list[tuple[str, str, Question]],
    out: Draft,
    progress: Progress,
) -> tuple[int, float]:
    """Answer what no shard has; returns tokens and seconds."""
    settings = config.evaluation
    finished = {
        row["question_id"]
        for shard in out.shards("items")
        for row in shard.select(["model", "question_id"]).to_pylist()
        if row["model"] == name
    }
    missing = [item for item in items if item[2].id not in finished]
    progress.advance(len(items) - len(missing))
    tokens: int = 0
    seconds = 0.0
    if not missing:
        return tokens, seconds
    decoding = Decoding(0.0, 1.0, settings.max_tokens)
    with open_engine(settings.engine, model, config.prompts.chat) as engine:
        for first in range(0, len(missing), settings.items_per_shard):
            chunk, began = missing[first : first + settings.items_per_shard], time.monotonic()
            prompts = [student_prompt(config.prompts, question) for _, _, question in chunk]
            rows = []
            for (group, set_name, question), item in zip(
                chunk, engine.generate(prompts, [0] * len(chunk), decoding), strict=True
            ):
                graded = question.grade(item.text, item.finish_reason == "stop")
                rows.append(
                    {
                        "model": name,
                        "group": group,
                        "set": set_name,
                        "question_id": question.id,
                        "outcome": graded.outcome.value,
                        "answer": graded.answer,
                        "gold": question.answer,
                        "rule": graded.rule,
                        "finish_reason": item.finish_reason,
                        "prompt_tokens": item.prompt_tokens,
                        "completion_tokens": item.completion_tokens,
                        "cumulative_logprob": item.cumulative_logprob,
                        "text": item.text,
                    }
                )
            out.write_shard("items", pa.Table.from_pylist(rows, schema=SCHEMA))
            seconds += time.monotonic() - began
            tokens += sum(int(str(row["completion_tokens"])) for row in rows)
            progress.advance(len(chunk), f"{name}: {tokens / seconds:,.0f} tokens/s")
    return tokens, seconds


def _outcomes(table: pa.Table, model: str, column: str, value: str) -> pa.Table:
    return table.filter(pc.and_(pc.equal(table["model"], model), pc.equal(table[column], value))).sort_by("question_id")


def _accuracy(rows: pa.Table) -> dict[str, Any]:
    from pipeline.statistics import wilson

    outcomes = rows["outcome"].to_pylist()
    counts = {kind.value: outcomes.count(kind) for kind in Outcome}
    accuracy = wilson(counts["correct"], len(outcomes))
    return {"items": len(outcomes), "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, **counts}


def _paired(table: pa.Table, column: str, value: str, config: Config) -> dict[str, Any]:
    """Student against base on identical items."""
    import numpy as np

    from pipeline.statistics import mcnemar, paired_bootstrap

    base, student = (_outcomes(table, model, column, value) for model in ("base", "student"))
    if base["question_id"].to_pylist() != student["question_id"].to_pylist():
        raise AssertionError("base and student answered different items")
    right = [np.array([outcome == Outcome.CORRECT for outcome in rows["outcome"].to_pylist()]) for rows in (base, student)]
    change = paired_bootstrap(right[0], right[1], config.evaluation.bootstrap, config.seed)
    return {"change": change.value, "low": change.low, "high": change.high, "p": mcnemar(right[0], right[1])}


def summarise(table: pa.Table, config: Config, models: list[str]) -> dict[str, Any]:
    """Accuracy by group and set for every model; paired changes; forgetting per OOD set (base − student)."""
    places = [("group", group) for group in ("id", "ood") if group in set(table["group"].to_pylist())]
    sets = dict.fromkeys(zip(table["group"].to_pylist(), table["set"].to_pylist(), strict=True))
    places += [("set", name) for _, name in sets]
    return {
        "accuracy": {
            model: {f"{column}:{value}": _accuracy(_outcomes(table, model, column, value)) for column, value in places}
            for model in models
        },
        "student_against_base": {f"{column}:{value}": _paired(table, column, value, config) for column, value in places},
        "forgetting": {name: -_paired(table, "set", name, config)["change"] for group, name in sets if group == "ood"},
        "sets": [[group, name] for group, name in sets],
    }


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> dict[str, Any]:
    """Three models, one engine each."""
    table = inputs["questions"].table("questions")
    table = table.filter(pc.equal(table["use"], config.evaluation.use))
    questions = from_table(table)
    items = list(zip(table["role"].to_pylist(), table["set"].to_pylist(), questions, strict=True))
    models = {
        "base": config.base,
        "teacher": config.teacher,
        "student": ModelSource(path=inputs["training"].path("student")),
    }
    settings = config.evaluation
    prompts = {question.id: student_prompt(config.prompts, question) for question in questions}
    for source in (config.base, config.teacher):
        check_lengths(load_tokenizer(source), prompts, config.prompts.chat, settings.max_tokens, settings.engine.max_context)
    progress.start("greedy answers", len(items) * len(models), "items")
    tokens, seconds = 0, 0.0
    for name, model in models.items():
        more = _answer(config, name, model, items, out, progress)
        tokens, seconds = tokens + more[0], seconds + more[1]
    answered = pa.concat_tables(out.shards("items"))
    return {
        **summarise(answered, config, list(models)),
        "tokens": sum(answered["completion_tokens"].to_pylist()),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
    }


if __name__ == "__main__":
    from stages.process import main

    main(NAME)
