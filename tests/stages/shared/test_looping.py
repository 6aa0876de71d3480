from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.generation.repetition import LOOPING
from pipeline.grading.grade import Outcome
from stages.shared.looping import COLUMNS, looping

rows = st.lists(
    st.tuples(
        st.sampled_from(["base", "student"]),
        st.sampled_from([("id", "dial"), ("ood", "lift"), ("ood", "count")]),
        st.sampled_from([kind.value for kind in Outcome]),
        st.floats(0, 1, width=32),
    ),
    min_size=1,
)


@given(rows, st.integers(1, 7))
def test_only_truncated_answers_that_repeat_themselves_are_looping(
    found: list[tuple[str, tuple[str, str], str, float]], size: int
) -> None:
    table = [(model, *place, outcome, share) for model, place, outcome, share in found]
    parts = [table[n : n + size] for n in range(0, len(table), size)]
    counts = looping(pa.table(dict(zip(COLUMNS, map(list, zip(*part, strict=True)), strict=True))) for part in parts)
    for model in {row[0] for row in table}:
        for place in ("group:id", "group:ood", "set:dial", "set:lift", "set:count"):
            mine = [row for row in table if row[0] == model and place in (f"group:{row[1]}", f"set:{row[2]}")]
            loops = sum(row[3] == Outcome.TRUNCATED.value and row[4] > LOOPING for row in mine)
            assert counts[model].get(place) == (loops if mine else None)
