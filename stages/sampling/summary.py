"""Sums the outcomes and tokens of the samples shard by shard, and rejects duplicate samples.

A shard holds all samples of its questions. A covered question is therefore counted in exactly one shard, and duplicates within a question
are searched one shard at a time. A question in two shards, or a sample twice in one shard, would silently be trained on twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from pipeline.grading.grade import Outcome
from pipeline.text_digests import digest
from stages.core.summaries import SamplingSummary
from stages.shared.looping import is_looping
from storage.errors import ArtifactError

COUNTED: Final = ["question_id", "perspective", "sample_index", "outcome", "repetition", "completion_tokens"]


def tally(shards: Iterable[pa.Table], perspectives: Sequence[str], folder: Path) -> SamplingSummary:
    """Outcomes per perspective, coverage and tokens of shards with the columns `COUNTED`.

    Raises:
        ArtifactError: a sample occurs twice; `folder` is named in the message.
    """
    loops = Counter[str]()
    totals, outcomes, covered = Counter[str](), Counter[tuple[str, str]](), Counter[str]()
    seen: set[int] = set()
    for shard in shards:
        ids, named, indices, graded, _, tokens = (shard[name].to_pylist() for name in COUNTED)
        _refuse_doubles(list(zip(ids, named, indices, strict=True)), seen, folder)
        outcomes.update(zip(named, graded, strict=True))
        loops.update(shard["perspective"].filter(is_looping(shard)).to_pylist())
        right = [
            (question, item) for question, item, outcome in zip(ids, named, graded, strict=True) if outcome == Outcome.CORRECT
        ]
        covered.update(item for _, item in set(right))
        totals["samples"] += len(ids)
        totals["tokens"] += sum(tokens)
        totals["tokens_right"] += sum(
            count for count, outcome in zip(tokens, graded, strict=True) if outcome == Outcome.CORRECT
        )
    return SamplingSummary(
        questions=len(seen),
        samples=totals["samples"],
        right=sum(outcomes[name, Outcome.CORRECT.value] for name in perspectives),
        tokens=totals["tokens"],
        tokens_right=totals["tokens_right"],
        outcomes={name: {kind.value: outcomes[name, kind.value] for kind in Outcome} for name in perspectives},
        looping={name: loops[name] for name in perspectives},
        coverage={name: covered[name] / len(seen) for name in perspectives},
    )


def _refuse_doubles(keys: list[tuple[str, str, int]], seen: set[int], folder: Path) -> None:
    """Reject duplicate samples within one shard, and questions of earlier shards, which are in `seen`."""
    remedy = f"remove {folder} and run the stage again"
    double = [key for key, count in Counter(keys).items() if count > 1]
    if double:
        raise ArtifactError(f"{folder}: sample {double[0]} occurs twice; {remedy}")
    for question_id in dict.fromkeys(key[0] for key in keys):
        identity = digest(question_id)
        if identity in seen:
            raise ArtifactError(f"{folder}: the samples of question {question_id!r} are in two shards; {remedy}")
        seen.add(identity)
