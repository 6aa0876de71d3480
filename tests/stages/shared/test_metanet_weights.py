"""Weights of rationales by a state of MetaNet: they sum to one over what is trained on, and are unknown for arms that do not follow it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from stages.shared.metanet_weights import weigher
from storage.artifact import Artifact
from storage.atomic import read_parquet
from tests.support.browsable_run import browsable_run


def run(root: Path, *changes: str) -> tuple[Artifact, Artifact]:
    _, inputs = browsable_run(root, changes=changes)
    return inputs["synthesis"], inputs["training"]


@pytest.mark.parametrize("wanted", [None, ["formal", "planning", "analogy"]])
def test_weights_sum_to_one_over_the_perspectives_that_are_trained_on(wanted: list[str] | None, tmp_path: Path) -> None:
    changes = [] if wanted is None else [f"training.perspectives={wanted}"]
    synthesis, training = run(tmp_path, *changes)
    weigh = weigher(synthesis, training, training.path("metanet.safetensors"))
    assert weigh is not None
    sums, usable = defaultdict[str, float](float), set()
    found = {key: one for path in synthesis.files("features") for key, one in weigh(read_parquet(path), {}).items()}
    kept = synthesis.table("rationales").to_pylist()
    assert {*found} == {(row["question_id"], row["perspective"]) for row in kept}
    for (question_id, name), one in found.items():
        sums[question_id] += one.weight
        if wanted is None or name in wanted:
            usable.add(question_id)
            assert one.score is not None
        else:
            assert (one.score, one.weight) == (None, 0.0)
    for question_id, total in sums.items():
        assert total == pytest.approx(1.0 if question_id in usable else 0.0)


def test_equal_weights_have_no_score(tmp_path: Path) -> None:
    synthesis, training = run(tmp_path, "training.mixture.weights=uniform")
    weigh = weigher(synthesis, training, training.path("metanet.safetensors"))
    assert weigh is not None
    assert {one.score for one in weigh(read_parquet(synthesis.files("features")[0]), {}).values()} == {None}


@pytest.mark.parametrize("change", ["mixture.weights=table", "mixture.order=shuffled", "mixture.draw=2"])
def test_weights_are_unknown_where_they_are_random_or_from_a_table(change: str, tmp_path: Path) -> None:
    synthesis, training = run(tmp_path, f"training.{change}")
    assert weigher(synthesis, training, training.path("metanet.safetensors")) is None
