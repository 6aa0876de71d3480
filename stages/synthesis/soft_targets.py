"""Measures soft targets: what the teacher says of every token of the kept rationales (`pipeline/teacher_scores/`).

One shard per shard of rationales, in the same order of rows; a kill loses at most one. The base student is not in memory any more.

Axes: T trained tokens of a rationale, C the teacher's most likely tokens of a position.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from pipeline.config.engines import EngineConfig
from pipeline.config.models import Teacher, Weights
from pipeline.config.prompts import Prompts
from pipeline.model_folders import load_tokenizer
from pipeline.model_thoughts import thought_form
from pipeline.perspectives.perspective import Perspective
from pipeline.prompt_rendering import rationale_tokens, teacher_prompt
from pipeline.teacher_scores.open_scores import open_scores
from pipeline.teacher_scores.scores import Given, Scores, TeacherScores, end_tokens, in_students_words
from stages.core.progress import Progress
from storage.artifact import Draft
from storage.atomic import read_parquet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AT_ONCE: Final = 64
"""Rationales that are scored between two reports of progress."""


class Source(NamedTuple):
    """Who is asked, and how: the teacher with its engine and prompts, and the student, whose tokens the texts have."""

    teacher: Teacher
    engine: EngineConfig
    prompts: Prompts
    perspectives: Mapping[str, Perspective]
    student: Weights
    top_k: int


def schema(top_k: int) -> pa.Schema:
    """Columns of a shard: the keys of a rationale, and per trained token its most likely tokens in the teacher's words."""
    return pa.schema(
        [
            ("question_id", pa.string()),
            ("perspective", pa.string()),
            ("token_TC", pa.list_(pa.list_(pa.int32(), top_k))),
            ("logprob_TC", pa.list_(pa.list_(pa.float32(), top_k))),
        ]
    )


def _name(number: int) -> str:
    return f"soft_targets-{number:05d}"


def _column(tables: Sequence[np.ndarray[Any, Any]], kind: pa.DataType) -> pa.Array:
    """A column of matrices (T, C) with their own numbers of rows."""
    whole = np.concatenate(tables)
    ends = np.cumsum([0, *(len(table) for table in tables)])
    rows = pa.FixedSizeListArray.from_arrays(pa.array(whole.reshape(-1), kind), whole.shape[1])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), rows)


def soft_table(keys: Sequence[tuple[str, str]], scores: Sequence[Scores], top_k: int) -> pa.Table:
    """A shard: a row per rationale (question, perspective)."""
    if not keys:
        return schema(top_k).empty_table()
    names = ("question_id", "perspective")
    columns = {name: pa.array([key[n] for key in keys], pa.string()) for n, name in enumerate(names)}
    columns["token_TC"] = _column([found.ids_TC for found in scores], pa.int32())
    columns["logprob_TC"] = _column([found.logprobs_TC for found in scores], pa.float32())
    return pa.table(columns, schema=schema(top_k))


def _scored(
    scores: TeacherScores,
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, str]],
    texts: Mapping[str, str],
) -> list[Scores]:
    marks = thought_form(tokenizer, source.student).marks
    given = [
        Given(
            teacher_prompt(source.prompts, texts[row["question_id"]], source.perspectives[row["perspective"]]),
            rationale_tokens(tokenizer, row["rationale"], marks),
        )
        for row in rows
    ]
    ends = end_tokens(source.teacher, tokenizer)
    return [in_students_words(found, ends, len(tokenizer)) for found in scores.score(given, source.top_k)]


def measure_soft_targets(
    source: Source, shards: int, texts_of: Callable[[Sequence[str]], Mapping[str, str]], out: Draft, progress: Progress
) -> None:
    """Write the soft targets of every shard of rationales that has none yet. `texts_of` gives the texts of questions by their ids."""
    missing = [number for number in range(shards) if not out.path(f"{_name(number)}.parquet").exists()]
    progress.start("soft targets", shards, "shards", shards - len(missing))
    if not missing:
        return
    tokenizer = load_tokenizer(source.student)
    if torch.cuda.is_available():
        # What the base student has left in PyTorch's cache would be missing to vLLM, whose core is another process.
        gc.collect()
        torch.cuda.empty_cache()
    with open_scores(source.engine, source.teacher, tokenizer, source.top_k) as scores:
        for number in missing:
            shard = read_parquet(
                out.path(f"rationales-{number:05d}.parquet"), ["question_id", "perspective", "rationale"]
            ).to_pylist()
            texts = texts_of(list(dict.fromkeys(row["question_id"] for row in shard)))
            found: list[Scores] = []
            for first in range(0, len(shard), _AT_ONCE):
                found += _scored(scores, source, tokenizer, shard[first : first + _AT_ONCE], texts)
                progress.within(len(found) / len(shard), f"{len(found)} of {len(shard)} rationales of a shard")
            keys = [(row["question_id"], row["perspective"]) for row in shard]
            out.write_table(_name(number), soft_table(keys, found, source.top_k))
            progress.advance(1, f"{sum(len(one.ids_TC) for one in found):,} tokens")
