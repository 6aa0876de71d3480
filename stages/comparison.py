"""Base, teacher and student compared on the items that all have answered.

Accuracy with Wilson intervals, unparsed and truncated beside wrong; paired tests of student against base; forgetting per
out-of-distribution set. Of each answer eleven bytes are held: a digest of its question, its set, its outcome.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.digests import digest
from pipeline.errors import ArtifactError
from pipeline.grading import Outcome
from pipeline.statistics import mcnemar, paired_bootstrap, wilson
from storage.artifact import Artifact

COUNTED: Final = ["model", "group", "set", "question_id", "outcome", "completion_tokens"]
_OUTCOMES: Final = [kind.value for kind in Outcome]

Set = tuple[str, str]
"""Group and name."""


_ANSWER: Final = np.dtype([("question", np.uint64), ("set", np.int16), ("outcome", np.int8)])


def _read(shards: Iterable[pa.Table], models: Sequence[str]) -> tuple[dict[str, NDArray[np.void]], list[Set], int]:
    """The answers of every model, the sets that their numbers stand for, and all their tokens."""
    found = {model: [np.empty(0, _ANSWER)] for model in models}
    numbers: dict[Set, int] = {}
    tokens = 0
    for shard in shards:
        named, groups, sets, ids, outcomes, counts = (shard[name].to_pylist() for name in COUNTED)
        tokens += sum(counts)
        answers = np.empty(len(ids), _ANSWER)
        answers["question"] = [digest(question_id) % 2**64 for question_id in ids]
        answers["set"] = [numbers.setdefault(item, len(numbers)) for item in zip(groups, sets, strict=True)]
        answers["outcome"] = [_OUTCOMES.index(outcome) for outcome in outcomes]
        for model in dict.fromkeys(named):
            found[model].append(answers[[name == model for name in named]])
    return {model: np.concatenate(parts) for model, parts in found.items()}, list(numbers), tokens


def _of(answers: NDArray[np.void], sets: list[int]) -> NDArray[np.void]:
    """The answers to the questions of some sets, in the order of the digests."""
    return np.sort(answers[np.isin(answers["set"], sets)], order="question")


def _accuracy(answers: NDArray[np.void]) -> dict[str, Any]:
    counts = {kind: int((answers["outcome"] == number).sum()) for number, kind in enumerate(_OUTCOMES)}
    accuracy = wilson(counts["correct"], len(answers))
    return {"items": len(answers), "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, **counts}


def _paired(base: NDArray[np.void], student: NDArray[np.void], resamples: int, seed: int) -> dict[str, Any]:
    """Student against base, which must be on identical items."""
    if not np.array_equal(base["question"], student["question"]):
        raise ArtifactError("evaluation: base and student answered different items; run it again")
    right = [answers["outcome"] == _OUTCOMES.index(Outcome.CORRECT) for answers in (base, student)]
    change = paired_bootstrap(right[0], right[1], resamples, seed)
    return {"change": change.value, "low": change.low, "high": change.high, "p": mcnemar(right[0], right[1])}


def _places(sets: Sequence[Set]) -> dict[str, list[int]]:
    """Both groups and every set, as the numbers of the sets in them."""
    places = {
        f"group:{group}": [number for number, item in enumerate(sets) if item[0] == group]
        for group in ("id", "ood")
        if any(item[0] == group for item in sets)
    }
    return places | {f"set:{name}": [number] for number, (_, name) in enumerate(sets)}


def compare_students(
    incumbent: Iterable[pa.Table], candidate: Iterable[pa.Table], resamples: int, seed: int
) -> dict[str, dict[str, Any]] | None:
    """Candidate − incumbent by place, from the students' rows of two evaluations; None where they answered different items."""
    (before, sets, _), (after, candidate_sets, _) = (_read(_students(shards), ["student"]) for shards in (incumbent, candidate))
    if sorted(sets) != sorted(candidate_sets):
        return None
    found = {}
    for place, numbers in _places(sets).items():
        theirs = [candidate_sets.index(sets[number]) for number in numbers]
        old, new = _of(before["student"], numbers), _of(after["student"], theirs)
        if not np.array_equal(old["question"], new["question"]):
            return None
        found[place] = _paired(old, new, resamples, seed)
    return found


def asked(questions: Artifact, use: str) -> str:
    """A digest of everything that an evaluation of one use asks, in order: two that are equal asked the same."""
    found = hashlib.sha256()
    for batch in questions.batches("questions"):
        wanted = batch.filter(pc.equal(batch["use"], use))
        for row in wanted.to_pylist():
            found.update(orjson.dumps(row))
    return found.hexdigest()


def _students(shards: Iterable[pa.Table]) -> Iterator[pa.Table]:
    for shard in shards:
        yield shard.filter(pc.equal(shard["model"], "student"))


def summarise(shards: Iterable[pa.Table], models: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    """Accuracy by group and set for every model; paired changes; forgetting per OOD set (base − student)."""
    answers, sets, tokens = _read(shards, models)
    places = _places(sets)
    paired = {
        place: _paired(_of(answers["base"], numbers), _of(answers["student"], numbers), resamples, seed)
        for place, numbers in places.items()
    }
    return {
        "accuracy": {
            model: {place: _accuracy(_of(answers[model], numbers)) for place, numbers in places.items()} for model in models
        },
        "student_against_base": paired,
        "forgetting": {name: -paired[f"set:{name}"]["change"] for group, name in sets if group == "ood"},
        "sets": [list(item) for item in sets],
        "tokens": tokens,
    }
