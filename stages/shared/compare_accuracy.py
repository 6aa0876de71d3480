"""Compares models on identical items.

Computes accuracy with Wilson intervals (unparsed and truncated answers are counted apart from wrong ones), paired tests of the student
against its base, and forgetting per out-of-distribution set. Each answer takes twelve bytes of memory: a digest of its question, its set,
its outcome, and whether the question repeats another one. If a set or group contains questions of an earlier set, it is also reported
without them, as `set:NAME without repeats`.

Axes: N answers of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.analysis.accuracy_numbers import Accuracy, PairedChange
from pipeline.analysis.statistics import change_interval, mcnemar, wilson
from pipeline.grading.grade import Outcome
from pipeline.text_digests import digest
from storage.errors import ArtifactError

COUNTED: Final = ["model", "group", "set", "question_id", "outcome", "repeats"]
WITHOUT_REPEATS: Final = " without repeats"
_OUTCOMES: Final = [kind.value for kind in Outcome]

Set = tuple[str, str]
"""Group and name."""

Tables = Iterable[pa.Table | pa.RecordBatch]
"""Tables or batches of answers, each with the columns `COUNTED`."""


_ANSWER: Final = np.dtype([("question", np.uint64), ("set", np.int16), ("outcome", np.int8), ("repeats", np.bool_)])


def _read(tables: Tables, models: Sequence[str]) -> tuple[dict[str, NDArray[np.void]], list[Set]]:
    """Every model's answers, sorted by question digest, and the sets by number."""
    found = {model: [np.empty(0, _ANSWER)] for model in models}
    numbers: dict[Set, int] = {}
    for table in tables:
        named, groups, sets, ids, outcomes, repeats = (table[name].to_pylist() for name in COUNTED)
        answers = np.empty(len(ids), _ANSWER)
        answers["question"] = [digest(question_id) % 2**64 for question_id in ids]
        answers["set"] = [numbers.setdefault(item, len(numbers)) for item in zip(groups, sets, strict=True)]
        answers["outcome"] = [_OUTCOMES.index(outcome) for outcome in outcomes]
        answers["repeats"] = [bool(other) for other in repeats]
        for model in dict.fromkeys(named):
            found[model].append(answers[[name == model for name in named]])
    # Free one model's pieces before concatenating the next one's, to limit peak memory.
    return {model: _in_order(np.concatenate(found.pop(model))) for model in models}, list(numbers)


def _in_order(answers: NDArray[np.void]) -> NDArray[np.void]:
    return answers[np.argsort(answers["question"])]


def _identical(one: NDArray[np.void], other: NDArray[np.void]) -> bool:
    """Whether two models answered the same items."""
    return all(np.array_equal(one[name], other[name]) for name in ("question", "set"))


def _accuracy(answers: NDArray[np.void]) -> Accuracy:
    counts = {kind: int((answers["outcome"] == number).sum()) for number, kind in enumerate(_OUTCOMES)}
    accuracy = wilson(counts["correct"], len(answers))
    return Accuracy(items=len(answers), accuracy=accuracy.value, low=accuracy.low, high=accuracy.high, **counts)


def _paired(before: NDArray[np.void], after: NDArray[np.void]) -> PairedChange:
    """Paired change from one model to another on identical items in the same order."""
    right = [answers["outcome"] == _OUTCOMES.index(Outcome.CORRECT) for answers in (before, after)]
    change = change_interval(right[0][None], right[1][None])
    return PairedChange(change=change.value, low=change.low, high=change.high, p=mcnemar(right[0], right[1]))


def group_and_set_masks(sets: Sequence[Set], set_N: NDArray[Any], repeats_N: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Masks over N answers: for both groups and for every set, each set given by its number.

    If some but not all questions of a set or group repeat questions of an earlier set, a mask without the repeats follows.
    """
    groups = {f"group:{group}": [number for number, item in enumerate(sets) if item[0] == group] for group in ("id", "ood")}
    found: dict[str, NDArray[np.bool_]] = {}
    for name, numbers in {**groups, **{f"set:{name}": [number] for number, (_, name) in enumerate(sets)}}.items():
        whole = np.isin(set_N, numbers)
        once = whole & ~repeats_N
        if numbers:
            found[name] = whole
        if 0 < once.sum() < whole.sum():
            found[name + WITHOUT_REPEATS] = once
    return found


def _places(sets: Sequence[Set], answers: NDArray[np.void]) -> dict[str, NDArray[np.bool_]]:
    return group_and_set_masks(sets, answers["set"], answers["repeats"])


def compare_students(incumbent: Tables, candidate: Tables) -> dict[str, PairedChange] | None:
    """Candidate − incumbent by group and set, from the answers of two evaluations; None if they answered different items."""
    (before, sets), (after, candidate_sets) = (_read(tables, ["student"]) for tables in (incumbent, candidate))
    old, new = before["student"], after["student"]
    if sorted(sets) != sorted(candidate_sets) or not np.array_equal(old["question"], new["question"]):
        return None
    theirs = np.array([sets.index(item) for item in candidate_sets], np.int16)
    if not np.array_equal(old["set"], theirs[new["set"]]):
        return None
    return {name: _paired(old[mask], new[mask]) for name, mask in _places(sets, old).items()}


class Accuracies(NamedTuple):
    """Accuracy by model, and by group or set; and the sets."""

    accuracy: dict[str, dict[str, Accuracy]]
    sets: list[Set]


class Comparison(NamedTuple):
    """Accuracies, paired changes of the student, and forgetting per out-of-distribution set (base − student)."""

    accuracy: dict[str, dict[str, Accuracy]]
    sets: list[Set]
    student_against_base: dict[str, PairedChange]
    forgetting: dict[str, float]


def _accuracies(answers: Mapping[str, NDArray[np.void]], sets: list[Set]) -> Accuracies:
    return Accuracies(
        {model: {name: _accuracy(mine[mask]) for name, mask in _places(sets, mine).items()} for model, mine in answers.items()},
        sets,
    )


def accuracies(tables: Tables, models: Sequence[str]) -> Accuracies:
    """Accuracy by group and set for every model."""
    return _accuracies(*_read(tables, models))


def summarise(tables: Tables, references: Sequence[str]) -> Comparison:
    """Accuracy by group and set for references and student; paired changes; forgetting per OOD set (base − student).

    The base is one of the references.

    Raises:
        ArtifactError: the models answered different items.
    """
    answers, sets = _read(tables, (*references, "student"))
    for model in references:
        if not _identical(answers[model], answers["student"]):
            raise ArtifactError(
                f"evaluation: {model} and student answered different items; remove the references and run again"
            )
    base, student = answers["base"], answers["student"]
    paired = {name: _paired(base[mask], student[mask]) for name, mask in _places(sets, student).items()}
    forgetting = {name: -paired[f"set:{name}"].change for group, name in sets if group == "ood"}
    return Comparison(*_accuracies(answers, sets), paired, forgetting)
