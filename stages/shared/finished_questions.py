"""Resuming a sharded stage: which questions are finished, and which are left.

A resumed run asks only for questions that no committed shard has, so nothing depends on shard sizes or positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.questions.question import Question, from_table
from pipeline.text_digests import digests
from storage.artifact import Artifact


def training_questions(questions: Artifact) -> Iterator[Question]:
    """The training questions, in order."""
    for batch in questions.batches("questions", rows=1024):
        yield from from_table(batch.filter(pc.equal(batch["role"], "train")))


def finished_questions(shards: Iterable[pa.Table | pa.RecordBatch]) -> set[int]:
    """Digests of the questions in some shards."""
    finished: set[int] = set()
    for shard in shards:
        finished |= digests(shard["question_id"].unique().to_pylist())
    return finished
