"""The report's plots are legible with any number of sets."""

from __future__ import annotations

import itertools

import pytest

from pipeline.analysis.accuracy_numbers import Accuracy
from pipeline.analysis.report_plots import accuracy_by_set

HALF = Accuracy(items=4, accuracy=0.5, low=0.2, high=0.8, correct=2, wrong=2, unparsed=0, truncated=0)


@pytest.mark.parametrize("sets", [1, 4, 12, 16])
def test_no_label_of_a_set_covers_another(sets: int) -> None:
    labels = {f"set:{number}": f"boolean_expressions-{number}" for number in range(sets)}
    figure = accuracy_by_set({model: dict.fromkeys(labels, HALF) for model in ("base", "student")}, labels)
    figure.draw_without_rendering()
    shown = figure.axes[0].get_xticklabels()
    boxes = [label.get_window_extent() for label in shown]
    if shown[0].get_rotation() == 0:
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    else:  # slanted: neighbours are apart if their ends are further apart than a line is high
        height = min(box.height for box in boxes) / len("boolean_expressions-0")
        assert all(right.x1 - left.x1 > height for left, right in itertools.pairwise(boxes))
