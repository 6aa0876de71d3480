"""What trackers show of summaries and logs: plain names, finite numbers, and of a figure its value."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from flows.tracking.values import step_values, summary_values
from pipeline.analysis.accuracy_numbers import Accuracy, PairedChange

ACCURACY = Accuracy(items=4, accuracy=0.75, low=0.3, high=0.95, correct=3, wrong=1, unparsed=0, truncated=0).model_dump()
CHANGE = PairedChange(change=0.25, low=-0.1, high=0.5, p=0.3).model_dump()


def test_of_a_figure_only_the_value_is_shown() -> None:
    summary = {
        "accuracy": {"student": {"group:id": ACCURACY}},
        "student_against_base": {"group:id": CHANGE},
        "tokens": 7,
        "page": "x",
    }
    assert summary_values("evaluation", summary) == {
        "evaluation/accuracy/student/group_id": 0.75,
        "evaluation/student_against_base/group_id": 0.25,
        "evaluation/tokens": 7.0,
    }


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(), st.text(max_size=5))


@given(
    st.dictionaries(
        st.text(max_size=12), st.one_of(VALUES, st.dictionaries(st.text(max_size=12), VALUES, max_size=3)), max_size=6
    )
)
def test_names_are_paths_that_every_tracker_takes_and_values_are_finite(summary: dict[str, object]) -> None:
    for name, value in summary_values("synthesis", summary).items():
        assert math.isfinite(value)
        assert all(re.fullmatch(r"[A-Za-z0-9_. -]+", part) and part.strip(". ") == part for part in name.split("/"))


def test_a_step_has_the_trainers_usual_names() -> None:
    row = {"step": 3, "loss": 0.5, "gradient_norm": 2.0, "learning_rate": 1e-4, "loss_meta": None, "alpha_K": [0.25, 0.75]}
    assert step_values(row, ["formal", "planning"], {"all": 0.5}) == {
        "train/loss": 0.5,
        "train/grad_norm": 2.0,
        "train/learning_rate": 1e-4,
        "weight/formal": 0.25,
        "weight/planning": 0.75,
        "dev/all": 0.5,
    }
