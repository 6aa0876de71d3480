"""Summarises sampled answers: sampled accuracy, its variation between draws, pass@C and majority vote.

With C draws for each of N questions:

- pass@1: the share of correct draws. The draws of a question are not independent. The interval is therefore Wilson's for the number of
  independent answers whose mean would vary as much as this mean over questions does, a number between N and N·C (the effective sample
  size of cluster samples, Kish 1965);
- spread: the standard deviation, over the draws, of the accuracy of one draw per question: the variation of a single sampled run;
- pass@C: the share of questions with at least one correct draw;
- majority: the share of questions whose most frequent answer is correct (`pipeline/grading/majority.py`).

Axes: N questions of the set, C draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.accuracy_numbers import SampledAccuracy
from pipeline.analysis.statistics import Interval, wilson
from pipeline.grading.grade import Outcome
from pipeline.grading.majority import majority_is_right
from stages.shared.compare_accuracy import Set, group_and_set_masks
from storage.artifact import Draft

_COUNTED: Final = ["model", "group", "set", "question_id", "repeats", "outcome", "answer"]


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


def summarise_draws(out: Draft, models: Sequence[str], count: int) -> dict[str, dict[str, SampledAccuracy]]:
    """Model -> group or set -> figures, from the shards of `draws`, in which the `count` draws of a question are adjacent."""
    numbers: dict[Set, int] = {}
    marks: dict[str, list[tuple[int, bool]]] = {model: [] for model in models}
    rights: dict[str, list[NDArray[np.bool_]]] = {model: [] for model in models}
    votes: dict[str, list[bool]] = {model: [] for model in models}
    for table in out.shards("draws", _COUNTED):
        rows = zip(*(table[name].to_pylist() for name in _COUNTED), strict=True)
        for (model, group, name, _, repeats), draws in groupby(rows, key=lambda row: row[:5]):
            outcomes, answers = zip(*(row[5:] for row in draws), strict=True)
            marks[model].append((numbers.setdefault((group, name), len(numbers)), bool(repeats)))
            rights[model].append(np.array([outcome == Outcome.CORRECT for outcome in outcomes]))
            votes[model].append(majority_is_right(outcomes, answers))
    found = {}
    for model in models:
        sets_N, repeats_N = (np.array(column) for column in zip(*marks[model], strict=True))
        right_NC, majority_N = np.stack(rights[model]).reshape(-1, count), np.array(votes[model])
        inside = group_and_set_masks(list(numbers), sets_N, repeats_N)
        found[model] = {name: _cell(right_NC[mask_N], majority_N[mask_N]) for name, mask_N in inside.items()}
    return found
