"""Summarises sampled answers: sampled accuracy, its variation between draws, pass@C and majority vote.

With C draws for each of N questions:

- pass@1: the share of correct draws. The draws of a question are not independent. The interval is therefore Wilson's for the number of
  independent answers whose mean would vary as much as this mean over questions does, a number between N and N·C (the effective sample
  size of cluster samples, Kish 1965);
- spread: the standard deviation, over the draws, of the accuracy of one draw per question: the variation of a single sampled run;
- pass@C: the share of questions with at least one correct draw;
- majority: the share of questions whose most frequent answer is correct (`pipeline/grading/majority.py`).

Two models are compared in pass@1 on identical questions (`compare_draws`). This is the fair comparison of models that think, since greedy
decoding makes many of them loop.

Axes: N questions of the set, C draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.accuracy_numbers import PairedChange, SampledAccuracy
from pipeline.analysis.statistics import Interval, sampled_change, wilson
from pipeline.grading.grade import Outcome
from pipeline.grading.majority import majority_is_right
from pipeline.text_digests import digest
from stages.shared.compare_accuracy import Set, Tables, group_and_set_masks
from storage.artifact import Draft

DRAWS_COUNTED: Final = ["model", "group", "set", "question_id", "repeats", "outcome", "answer"]


def pass_at_1(right_NC: NDArray[np.bool_]) -> Interval:
    """Mean over questions and draws (N, C), with an interval for other questions and other draws."""
    questions, draws = right_NC.shape
    means_N = right_NC.mean(1)
    value = float(means_N.mean())
    variance = float(means_N.var(ddof=1)) / questions if questions > 1 else 0.0
    independent = value * (1 - value) / variance if variance else questions
    size = round(min(max(independent, questions), questions * draws))
    interval = wilson(round(value * size), size)
    return Interval(value, interval.low, interval.high)


def _cell(right_NC: NDArray[np.bool_], majority_N: NDArray[np.bool_]) -> SampledAccuracy:
    once, most = pass_at_1(right_NC), wilson(int(majority_N.sum()), len(majority_N))
    return SampledAccuracy(
        items=len(right_NC),
        pass_at_1=once.value,
        low=once.low,
        high=once.high,
        spread=float(right_NC.mean(0).std(ddof=1)),
        pass_at_all=float(right_NC.any(1).mean()),
        majority=most.value,
        majority_low=most.low,
        majority_high=most.high,
    )


class _Drawn(NamedTuple):
    """One model's draws: digest of each question, number of its set, whether another set has it, verdicts, and the majority's."""

    question_N: NDArray[np.uint64]
    set_N: NDArray[np.int64]
    repeats_N: NDArray[np.bool_]
    right_NC: NDArray[np.bool_]
    majority_N: NDArray[np.bool_]

    def in_order(self) -> _Drawn:
        """Sorted by question and set."""
        order = np.lexsort((self.set_N, self.question_N))
        return _Drawn(*(column[order] for column in self))


def _read(tables: Tables, models: Sequence[str], numbers: dict[Set, int]) -> dict[str, _Drawn]:
    """Every model's draws; those of a question are adjacent. New sets get the next number."""
    marks: dict[str, list[tuple[int, int, bool]]] = {model: [] for model in models}
    rights: dict[str, list[NDArray[np.bool_]]] = {model: [] for model in models}
    votes: dict[str, list[bool]] = {model: [] for model in models}
    for table in tables:
        rows = zip(*(table[name].to_pylist() for name in DRAWS_COUNTED), strict=True)
        for (model, group, name, question, repeats), draws in groupby(rows, key=lambda row: row[:5]):
            if model not in marks:
                continue
            outcomes, answers = zip(*(row[5:] for row in draws), strict=True)
            marks[model].append((digest(question) % 2**64, numbers.setdefault((group, name), len(numbers)), bool(repeats)))
            rights[model].append(np.array([outcome == Outcome.CORRECT for outcome in outcomes]))
            votes[model].append(majority_is_right(outcomes, answers))
    found = {}
    for model in models:
        questions, sets, repeats = zip(*marks[model], strict=True)
        columns = np.array(questions, np.uint64), np.array(sets, np.int64), np.array(repeats, np.bool_)
        found[model] = _Drawn(*columns, np.stack(rights[model]), np.array(votes[model]))
    return found


def summarise_draws(out: Draft, models: Sequence[str]) -> dict[str, dict[str, SampledAccuracy]]:
    """Model -> group or set -> figures, from the shards of `draws`."""
    numbers: dict[Set, int] = {}
    found = {}
    for model, drawn in _read(out.shards("draws", DRAWS_COUNTED), models, numbers).items():
        inside = group_and_set_masks(list(numbers), drawn.set_N, drawn.repeats_N)
        found[model] = {name: _cell(drawn.right_NC[mask_N], drawn.majority_N[mask_N]) for name, mask_N in inside.items()}
    return found


def compare_draws(before: tuple[Tables, str], after: tuple[Tables, str]) -> dict[str, PairedChange] | None:
    """Change in pass@1 from one model to another by group and set, each model given with its tables; None if their items differ."""
    numbers: dict[Set, int] = {}
    one, other = (_read(tables, [model], numbers)[model].in_order() for tables, model in (before, after))
    if not (np.array_equal(one.question_N, other.question_N) and np.array_equal(one.set_N, other.set_N)):
        return None
    changes = {}
    for name, mask_N in group_and_set_masks(list(numbers), one.set_N, one.repeats_N).items():
        interval, p = sampled_change(one.right_NC[mask_N], other.right_NC[mask_N])
        changes[name] = PairedChange(change=interval.value, low=interval.low, high=interval.high, p=p)
    return changes
