"""References stage: base and teacher (random models) answer every item of one use once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.run import RunConfig
from pipeline.errors import QuestionError
from stages.core.progress import Progress
from stages.references import stage as references
from stages.shared import answering
from storage.artifact import Artifact, Draft
from tests.support.artifacts import write_artifact
from tests.support.fake_teacher import serve
from tests.support.references import ITEMS, run_of, run_references, write_questions
from tests.support.runs import tree_of


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """A questions artifact and its references artifact."""
    root = tmp_path_factory.mktemp("whole")
    read = write_questions(root)
    return read, run_references(root, run_of(tiny_model), read)


def test_base_and_teacher_answer_every_item_of_one_use_only(whole: tuple[Artifact, Artifact]) -> None:
    read, made = whole
    rows = read.table("questions").to_pylist()
    wanted = [(row["role"], row["set"], row["id"]) for row in rows if row["use"] == "test"]
    answers = made.table("items").to_pylist()
    for model in ("base", "teacher"):
        assert [(row["group"], row["set"], row["question_id"]) for row in answers if row["model"] == model] == wanted
    assert len(answers) == 2 * len(wanted)


def test_the_summary_has_item_digest_accuracy_and_token_counts(whole: tuple[Artifact, Artifact]) -> None:
    read, made = whole
    answers, summary = made.table("items").to_pylist(), made.summary
    assert summary["asked"] == answering.items_digest(read, "test") != answering.items_digest(read, "dev")
    assert summary["sets"] == [["id", "dial"], ["ood", "lift"]]
    for model in ("base", "teacher"):
        for place, name in (("group:id", "dial"), ("set:dial", "dial"), ("group:ood", "lift"), ("set:lift", "lift")):
            mine = [row["outcome"] for row in answers if (row["model"], row["set"]) == (model, name)]
            cell = summary["accuracy"][model][place]
            assert (cell["items"], cell["correct"]) == (ITEMS, mine.count("correct"))
    assert summary["tokens"] == sum(row["completion_tokens"] for row in answers)
    assert summary["tokens_per_second"] > 0


def test_resume_asks_only_for_missing_items_at_any_shard_size(
    tmp_path: Path, tiny_model: Path, whole: tuple[Artifact, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    read, made = whole
    resumed = run_references(tmp_path / "resumed", run_of(tiny_model, 3), read, made)
    assert "20 items, 12 already done" in capsys.readouterr().out
    rows = [artifact.table("items").to_pylist() for artifact in (made, resumed)]
    assert rows[0] == rows[1]
    summaries = [{**artifact.summary, "tokens_per_second": 0} for artifact in (made, resumed)]
    assert summaries[0] == summaries[1]


def test_an_overlong_prompt_is_refused_before_a_model_is_loaded(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(answering, "open_engine", loaded)
    with pytest.raises(QuestionError, match="exceeds the context of 16"):
        run_references(tmp_path, run_of(tiny_model, max_context=16), write_questions(tmp_path))


def test_a_served_teacher_answers_through_its_server_without_weights(tiny_model: Path, tmp_path: Path) -> None:
    read = write_questions(tmp_path)
    with serve(lambda prompt, seed: "The answer is \\boxed{7}.") as url:
        tree = run_of(tiny_model).model_dump(exclude={"teacher"})
        tree |= {"teacher": {"served": True, "chat": False}, "sampling": {"engine": served(url)}}
        made = run_references(tmp_path / "served", RunConfig.model_validate(tree), read)
    answers = {row["model"]: row["text"] for row in made.table("items").to_pylist()}
    assert answers["teacher"] == "The answer is \\boxed{7}."
    assert answers["base"] != answers["teacher"]


def served(url: str) -> dict[str, str]:
    return {"kind": "openai", "base_url": url, "served_model": "simulated"}


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_only_a_teacher_with_a_server_is_served(tiny_model: Path, role: str) -> None:
    tree = tree_of(tiny_model) | {role: {"served": True}}
    with pytest.raises(ValueError, match="weights are needed here" if role == "student" else "no server answers"):
        RunConfig.model_validate(tree)


def test_every_model_draws_count_answers_per_item_and_resume_the_rest(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = write_questions(tmp_path)
    run = RunConfig.model_validate(
        tree_of(tiny_model)
        | {"evaluation": {"engine": {"kind": "transformers", "dtype": "float32"}, "max_tokens": 2, "draws": {"count": 3}}}
    )
    made = run_references(tmp_path / "whole", run, read)
    rows = made.table("draws").to_pylist()
    wanted = {(model, row["question_id"]) for model in ("base", "teacher") for row in made.table("items").to_pylist()}
    assert {(row["model"], row["question_id"]) for row in rows} == wanted
    assert [row["sample_index"] for row in rows] == [0, 1, 2] * len(wanted)
    assert len({row["text"] for row in rows if row["question_id"] == rows[0]["question_id"]}) > 1, "a draw is not another one"
    cell = made.summary["drawn"]["teacher"]["set:lift"]
    assert (cell["items"], cell["pass_at_1"]) == (ITEMS, 0.0)

    def write(draft: Draft) -> dict[str, Any]:
        draft.write_shard("items", made.table("items"))
        draft.write_shard("draws", made.table("draws").slice(0, 9))
        return references.run(references.config_of(run), {"questions": read}, draft, Progress(tmp_path / "again", "references"))

    (tmp_path / "resumed").mkdir()
    resumed = write_artifact(tmp_path / "resumed", "references", write)
    assert "40 items, 23 already done" in capsys.readouterr().out
    assert resumed.table("draws") == made.table("draws")
