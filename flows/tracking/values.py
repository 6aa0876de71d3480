"""Names and values that trackers show: curves of a training, and the numbers of a stage's summary.

Names follow transformers' trainer (`train/loss`, `train/learning_rate`, `train/grad_norm`); what is per perspective or per set has a
group of its own. Characters that some tracker refuses are replaced.

Axes: K perspectives.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.analysis.accuracy_numbers import dev_accuracies
from storage.artifact import Artifact
from storage.atomic import read_parquet

_RENAMED: Final = {"gradient_norm": "grad_norm"}
_LISTS: Final = {"alpha_K": "weight", "losses_K": "student_loss", "coverage_K": "coverage"}
_FIGURES: Final = ("accuracy", "change", "pass_at_1")
"""The value among the fields of a figure (`pipeline/analysis/accuracy_numbers.py`)."""
_REFUSED: Final = re.compile(r"[^A-Za-z0-9_. -]+")


def _part(text: str) -> str:
    """A part of a name: never empty, never `.` or `..`."""
    return _REFUSED.sub("_", text).strip(". ") or "_"


def _numbers(named: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in named.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def step_values(row: Mapping[str, Any], perspectives: Sequence[str], dev: Mapping[str, float]) -> dict[str, float]:
    """The values of one row of a training's log, and its dev accuracies; what was not measured at this step is left out."""
    found: dict[str, Any] = {f"dev/{_part(name)}": accuracy for name, accuracy in dev.items()}
    for name, value in row.items():
        if name in _LISTS:
            found |= {f"{_LISTS[name]}/{_part(one)}": of_it for one, of_it in zip(perspectives, value or (), strict=False)}
        elif name != "step":
            found[f"train/{_RENAMED.get(name, name)}"] = value
    return _numbers(found)


def training_points(training: Artifact, after: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Step and values of every step after `after`, in order."""
    scores = dev_accuracies(training.table("dev").to_pylist()) if "dev" in training.summary else {}
    for path in training.files("steps"):
        steps = read_parquet(path)
        names = json.loads(steps.schema.metadata[b"perspectives"])
        for row in steps.to_pylist():
            step = row["step"] + 1
            if step > after:
                yield step, step_values(row, names, scores.get(step, {}))


def summary_values(stage: str, summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a stage's summary, named by their places, for example `evaluation/accuracy/student/group_id`.

    Of a figure with its interval and counts only the value is shown; the report has the rest.
    """

    def leaves(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if isinstance(value, Mapping):
            shown = next((name for name in _FIGURES if isinstance(value.get(name), int | float)), None)
            if shown is not None:
                yield place, value[shown]
                return
            for name, inner in value.items():
                yield from leaves(inner, (*place, _part(str(name))))
        else:
            yield place, value

    return _numbers({"/".join(place): value for place, value in leaves(summary, (stage,))})
