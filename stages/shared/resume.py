"""Resuming a sharded stage: which questions are finished, which are left, and the seed of each sample.

A resumed run asks only for questions that no committed shard has, so nothing depends on shard sizes or positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.digests import digests
from pipeline.questions.question import Question, from_table
from storage.artifact import Artifact, Draft
from storage.mirror import DERIVED


def sample_seed(seed: int, question_id: str, perspective: str, index: int) -> int:
    """A 31-bit seed from run seed, question, perspective and sample index."""
    digest = hashlib.sha256(f"{seed}\0{question_id}\0{perspective}\0{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


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


def answer_journal_file(out: Draft, model: str) -> Path:
    """Journal of a server's answers whose shard is not committed yet; on this machine only, also under a remote root."""
    return out.scratch / DERIVED / f"arrived-{model}.jsonl"
