from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.config import RunConfig
from pipeline.errors import QuestionError
from stages import sampling
from stages.progress import Progress
from stages.sampling import sample_seed
from storage.artifact import Artifact, Draft
from tests.bench.world import question
from tests.conftest import tree_of
from tests.stages.artifacts import write_artifact
from tests.stages.test_questions import marked

names = st.text(max_size=20)


@given(st.tuples(st.integers(), names, names, st.integers(0, 99)), st.tuples(st.integers(), names, names, st.integers(0, 99)))
def test_a_seed_belongs_to_one_sample(one: tuple[int, str, str, int], other: tuple[int, str, str, int]) -> None:
    assert (sample_seed(*one) == sample_seed(*other)) == (one == other)
    assert 0 <= sample_seed(*one) < 2**31


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert sample_seed(0, "q", "formal", 0) == sample_seed(0, "q", "formal", 0) == 976521057


QUESTIONS = 7


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    def write(draft: Draft) -> dict[str, Any]:
        for first in range(0, QUESTIONS, 3):
            draft.write_shard("questions", marked([question(n) for n in range(first, min(first + 3, QUESTIONS))]))
        return {"train": QUESTIONS}

    return write_artifact(tmp_path_factory.mktemp("questions"), "questions", write)


def sampled(root: Path, model: Path, read: Artifact, per_shard: int, kept: Artifact | None = None, **engine: Any) -> Artifact:
    """The stage with a random teacher; `kept` is an artifact whose first shard a killed process has committed."""
    tree = tree_of(model) | {"only_perspectives": ["formal", "planning"]}
    tree["sampling"] = {
        "engine": {"kind": "transformers", "dtype": "float32", **engine}, "max_tokens": 2, "tries": 2, "questions_per_shard": per_shard,
    }  # fmt: skip
    config = sampling.config_of(RunConfig.model_validate(tree))

    def write(draft: Draft) -> dict[str, Any]:
        if kept is not None:
            draft.write_shard("samples", kept.table("samples").slice(0, 3 * 2 * 2))
        return sampling.run(config, {"questions": read}, draft, Progress(root / "progress", "sampling"))

    root.mkdir()
    return write_artifact(root, "sampling", write)


def test_a_resumed_run_asks_for_what_is_missing_whatever_the_size_of_its_shards(
    tmp_path: Path, tiny_model: Path, questions: Artifact
) -> None:
    whole = sampled(tmp_path / "whole", tiny_model, questions, 3)
    rows = whole.table("samples").to_pylist()
    assert len(rows) == QUESTIONS * 2 * 2
    assert len(whole.files("samples")) == 3
    resumed = sampled(tmp_path / "resumed", tiny_model, questions, 2, whole)
    assert len(resumed.files("samples")) == 3
    texts = [
        [{name: row[name] for name in ("question_id", "perspective", "sample_index", "seed", "text")} for row in found]
        for found in (rows, resumed.table("samples").to_pylist())
    ]
    assert texts[0] == texts[1]
    summaries = [{**artifact.summary, "tokens_per_second": 0} for artifact in (whole, resumed)]
    assert summaries[0] == summaries[1]


def test_a_question_that_is_too_long_is_refused_before_the_teacher_is_loaded(
    tmp_path: Path, tiny_model: Path, questions: Artifact
) -> None:
    with pytest.raises(QuestionError, match="over the context of 16"):
        sampled(tmp_path / "long", tiny_model, questions, 3, max_context=16)
    assert not list(tmp_path.glob("long/sampling/*.partial/samples-*"))
