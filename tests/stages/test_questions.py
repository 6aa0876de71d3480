from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import QuestionError
from pipeline.questions import Question
from stages import questions
from stages.progress import Progress
from storage.artifact import Draft
from storage.fingerprint import file_digest
from tests.stages.artifacts import write_artifact

SOURCES: dict[str, Any] = {
    "train": [{"kind": "miniature", "family": "dial", "split": "train", "count": count} for count in (30,)],
    "evaluation": [
        {"name": name, "group": "id", "source": {"kind": "miniature", "family": name, "split": "test", "count": 5}}
        for name in ("dial", "lift")
    ],
}


def marked(items: list[Question]) -> pa.Table:
    """Questions as the stage writes those for training."""
    return questions._table([questions._Marked(item, "train", "train", "train") for item in items])


def run(root: Path, sources: dict[str, Any], before: Any = None) -> dict[str, str]:
    """The digests of the shards that the stage writes; `before` may put something into the draft first."""
    root.mkdir(exist_ok=True)
    config = questions.Config.model_validate({"questions": sources})

    def write(draft: Draft) -> dict[str, Any]:
        if before is not None:
            before(draft)
        return questions.run(config, {}, draft, Progress(root / "progress", "questions"))

    artifact = write_artifact(root, "questions", write)
    return {path.name: file_digest(path) for path in artifact.files("questions")}


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "ROWS", 8)


def test_shards_are_full_but_for_the_last_and_evaluation_comes_first(tmp_path: Path) -> None:
    config = questions.Config.model_validate({"questions": SOURCES})
    progress = Progress(tmp_path / "progress", "questions")
    artifact = write_artifact(tmp_path, "questions", lambda draft: questions.run(config, {}, draft, progress))
    assert [batch.num_rows for batch in artifact.batches("questions")] == [8, 8, 8, 8, 8]
    assert artifact.table("questions")["role"].to_pylist() == ["id"] * 10 + ["train"] * 30
    assert artifact.summary == {"train": 30, "left_out_because_evaluated": 0, "evaluation": {"dial": 5, "lift": 5}}


@pytest.mark.parametrize("shards", [1, 3, 9])
def test_what_a_killed_process_has_left_changes_nothing(tmp_path: Path, shards: int) -> None:
    def leave(draft: Draft) -> None:
        for _ in range(shards):
            draft.write_shard("questions", marked([]))

    assert run(tmp_path / "killed", SOURCES, leave) == run(tmp_path / "whole", SOURCES)


def test_two_evaluation_sets_may_not_share_an_id(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"id": "a", "question": "What is 3+4?", "answer": "7"}) + "\n")
    mine = [{"name": name, "group": "ood", "source": {"kind": "file", "path": str(path)}} for name in ("one", "two")]
    with pytest.raises(QuestionError, match=r"questions\.evaluation: id 'a' comes from two sources"):
        run(tmp_path, {**SOURCES, "evaluation": mine})
