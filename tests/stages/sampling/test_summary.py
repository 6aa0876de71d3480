from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.generation.repetition import LOOPING
from pipeline.grading.grade import Outcome
from stages.sampling.summary import COUNTED, tally
from storage.errors import ArtifactError

PERSPECTIVES = ["formal", "planning"]
HERE = Path("here")

samples = st.dictionaries(
    st.tuples(st.integers(0, 9).map(str), st.sampled_from(PERSPECTIVES), st.integers(0, 2)),
    st.tuples(st.sampled_from([kind.value for kind in Outcome]), st.floats(0, 1), st.integers(1, 99)),
    min_size=1,
)


def shard(rows: list[tuple[Any, ...]]) -> pa.Table:
    return pa.table(dict(zip(COUNTED, map(list, zip(*rows, strict=True)), strict=True)))


def by_question(found: dict[tuple[str, str, int], tuple[str, float, int]]) -> list[list[tuple[Any, ...]]]:
    questions = dict.fromkeys(key[0] for key in found)
    return [[(*key, *value) for key, value in found.items() if key[0] == question] for question in questions]


@given(samples, st.integers(1, 4))
def test_sums_over_shards_equal_those_of_one_table(found: dict[Any, Any], size: int) -> None:
    groups = by_question(found)
    whole = shard([row for group in groups for row in group])
    shards = [shard([row for group in groups[n : n + size] for row in group]) for n in range(0, len(groups), size)]
    total = tally(shards, PERSPECTIVES, HERE)
    assert total == tally([whole], PERSPECTIVES, HERE)
    assert total.samples == len(found) == sum(sum(counts.values()) for counts in total.outcomes.values())
    for name in PERSPECTIVES:
        covered = {key[0] for key, (outcome, *_) in found.items() if key[1] == name and outcome == "correct"}
        assert total.coverage[name] == len(covered) / len(groups)
        loops = [key for key, (outcome, share, _) in found.items() if outcome == "truncated" and share > LOOPING]
        assert total.looping[name] == sum(key[1] == name for key in loops)
    assert total.tokens_right == sum(tokens for outcome, _, tokens in found.values() if outcome == "correct")


@given(samples, st.randoms())
def test_a_duplicate_sample_is_refused(found: dict[Any, Any], random: Any) -> None:
    shards = [shard(group) for group in by_question(found)]
    again = random.choice(shards)
    with pytest.raises(ArtifactError, match=r"in two shards; remove here and run"):
        tally([*shards, again.slice(0, 1)], PERSPECTIVES, HERE)
    with pytest.raises(ArtifactError, match=r"occurs twice; remove here and run"):
        tally([pa.concat_tables([again, again.slice(0, 1)])], PERSPECTIVES, HERE)
