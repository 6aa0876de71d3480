"""Separation: no question id and no normalised text is in both training and evaluation data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.run import load_config
from pipeline.errors import QuestionError
from pipeline.questions.contamination import Evaluated, identity_digests, same_as
from pipeline.questions.question import Question, from_table
from pipeline.questions.wording import normalised
from stages.core.process import run_stage
from storage.artifact import Artifact
from tests.support.questions.tables import NOTHING_LEFT_OUT
from tests.support.runs import write_config

Tree = dict[str, Any]
questions = st.builds(
    Question,
    id=st.sampled_from("abcdef"),
    question=st.sampled_from(["What is 3+4?", "what is  3+4", "What is 3-4?", "WHAT IS 3 + 4", "Say [3+4].", "say 3+4"]),
    answer=st.just("7"),
    answer_type=st.just("number"),
)


def separated(train: list[Question], evaluation: list[Question]) -> list[Question]:
    known = {key: Evaluated("set", question.id) for question in evaluation for key in identity_digests(question)}
    return [question for question in train if same_as(question, known) is None]


@given(st.lists(questions, max_size=6), st.lists(questions, max_size=6))
def test_exactly_the_questions_with_an_evaluated_id_or_text_are_removed(
    train: list[Question], evaluation: list[Question]
) -> None:
    kept = separated(train, evaluation)
    ids, texts = {item.id for item in evaluation}, {normalised(item.question) for item in evaluation}
    assert kept == [item for item in train if item.id not in ids and normalised(item.question) not in texts]


def test_a_question_with_reordered_choices_counts_as_the_same() -> None:
    train = Question("t", "Which flies?", "A", "choice", ("crow", "cat"))
    evaluation = Question("e", "Which flies?", "B", "choice", ("cat", "crow"))
    assert separated([train], [evaluation]) == []


def _run(folder: Path, tree: Tree) -> Artifact:
    return run_stage(load_config(write_config(folder, tree)), "questions")


def _rows(path: Path, *rows: tuple[str, str]) -> None:
    path.write_text("".join(json.dumps({"id": key, "question": text, "answer": "7"}) + "\n" for key, text in rows))


def test_the_questions_stage_removes_evaluated_questions_and_counts_them(tmp_path: Path, run_tree: Tree) -> None:
    _rows(tmp_path / "train.jsonl", ("a", "What is 3+4?"), ("b", "Name it."), ("c", "What else?"))
    _rows(tmp_path / "test.jsonl", ("z", "what is 3+4"), ("b", "Something new."))
    run_tree["questions"]["train"].append({"kind": "file", "path": "train.jsonl"})
    source = {"kind": "file", "path": "test.jsonl"}
    run_tree["questions"]["evaluation"].append({"name": "mine", "group": "ood", "source": source})
    artifact = _run(tmp_path, run_tree)
    table = artifact.table("questions")
    rows = table.to_pylist()
    train = [row for row in rows if row["role"] == "train"]
    evaluated = [row for row in rows if row["role"] != "train"]
    assert not {row["id"] for row in train} & {row["id"] for row in evaluated}
    assert not {normalised(row["question"]) for row in train} & {normalised(row["question"]) for row in evaluated}
    assert {row["set"]: row["role"] for row in evaluated} == {"dial": "id", "lift": "id", "dial-dev": "id", "mine": "ood"}
    assert [row["id"] for row in train if row["task"] != "dial"] == ["c"]
    assert artifact.summary == {
        **NOTHING_LEFT_OUT,
        "train": 13,
        "left_out_because_evaluated": 2,
        "evaluation": {"dial": 4, "lift": 4, "dial-dev": 4, "mine": 2},
    }
    assert len(from_table(table)) == 27
    named = [tuple(row.values()) for row in artifact.table("overlaps").to_pylist()]
    assert named == [("a", "wording", "mine", "z", None), ("b", "id", "mine", "b", None)]


def test_the_questions_stage_runs_once(tmp_path: Path, run_tree: Tree) -> None:
    first = _run(tmp_path, run_tree)
    written = (first.folder / "manifest.json").stat().st_mtime_ns
    assert _run(tmp_path, run_tree).folder == first.folder
    assert (first.folder / "manifest.json").stat().st_mtime_ns == written


def test_a_duplicate_id_from_two_sources_is_refused(tmp_path: Path, run_tree: Tree) -> None:
    _rows(tmp_path / "one.jsonl", ("a", "What is 3+4?"))
    _rows(tmp_path / "two.jsonl", ("a", "What else?"))
    run_tree["questions"]["train"] = [{"kind": "file", "path": name} for name in ("one.jsonl", "two.jsonl")]
    with pytest.raises(QuestionError, match=r"questions\.train: id 'a' occurs twice"):
        _run(tmp_path, run_tree)


def test_a_training_set_that_is_fully_evaluated_is_refused(tmp_path: Path, run_tree: Tree) -> None:
    run_tree["questions"]["train"] = [run_tree["questions"]["evaluation"][0]["source"]]
    with pytest.raises(
        QuestionError, match="no question is left: 4 questions are also in an evaluation set, 0 share a passage"
    ):
        _run(tmp_path, run_tree)
