"""Evaluation stage: only the student answers, and it is compared with the references on the same items."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.core.progress import Progress
from stages.evaluation import stage as evaluation
from stages.shared import answering
from storage.artifact import Artifact, Draft
from storage.errors import ArtifactError
from tests.support.artifacts import write_artifact
from tests.support.references import ITEMS, run_of, run_references, write_questions


def evaluated(root: Path, model: Path, questions: Artifact, references: Artifact) -> Artifact:
    """The stage's artifact for a student that is a copy of its base."""

    def train(draft: Draft) -> dict[str, Any]:
        shutil.copytree(model, draft.path("student"))
        return {}

    inputs = {"questions": questions, "references": references, "training": write_artifact(root, "training", train)}
    config = evaluation.config_of(run_of(model))

    def write(draft: Draft) -> dict[str, Any]:
        return evaluation.run(config, inputs, draft, Progress(root / "progress", "evaluation"))

    return write_artifact(root, "evaluation", write)


def test_only_the_student_answers_and_all_three_are_compared(tmp_path: Path, tiny_model: Path) -> None:
    questions = write_questions(tmp_path)
    references = run_references(tmp_path, run_of(tiny_model), questions)
    made = evaluated(tmp_path, tiny_model, questions, references)
    answers = made.table("items").to_pylist()
    assert {row["model"] for row in answers} == {"student"}
    assert {row["question_id"] for row in answers} == set(references.table("items")["question_id"].to_pylist())

    summary = made.summary
    assert list(summary["accuracy"]) == ["base", "teacher", "student"]
    for model in ("base", "teacher"):
        assert summary["accuracy"][model] == references.summary["accuracy"][model]
    assert summary["student_against_base"].keys() == {"group:id", "group:ood", "set:dial", "set:lift"}
    assert all(change["change"] == 0.0 for change in summary["student_against_base"].values()), "they are twins"
    assert summary["forgetting"] == {"lift": 0.0}
    assert summary["sets"] == [["id", "dial"], ["ood", "lift"]]
    assert summary["tokens"] == sum(row["completion_tokens"] for row in answers) <= 2 * 2 * ITEMS
    assert summary["tokens_per_second"] > 0


def test_references_of_other_items_are_refused_before_loading_the_student(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    references = run_references(tmp_path / "other", run_of(tiny_model), write_questions(tmp_path / "other", first=100))

    def loaded(*_: Any) -> None:
        raise AssertionError("the student was loaded")

    monkeypatch.setattr(answering, "open_engine", loaded)
    with pytest.raises(
        ArtifactError, match=r"references/0+: base and teacher answered different items than those of questions/0+ for test"
    ):
        evaluated(tmp_path, tiny_model, write_questions(tmp_path), references)
    assert not list(tmp_path.glob("evaluation/*.partial/items-*"))
