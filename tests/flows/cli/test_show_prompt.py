"""`mind show-prompt` shows masked and trained tokens, and loads no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows.cli.app import app
from flows.cli.show_prompt import _rationale
from pipeline.config.run import load_config
from pipeline.questions.question import Question
from tests.support.kill_campaign import CONFIG, overrides
from tests.support.models import CHAT, build_tokenizer
from tests.support.runs import write_config


def show(config: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["show-prompt", str(config), *words])


def test_masked_and_trained_tokens_are_shown_with_the_end_token(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    said = show(write_config(tmp_path, run_tree)).output
    masked, trained = said.split("student, trained: the rationale")
    assert "teacher, formal" in masked
    assert "do not appeal to intuition" in masked
    assert masked.count("A dial with ten marks") == 2
    assert "A dial with ten marks" not in trained
    assert "a placeholder, until synthesis is done" in trained
    assert "<end>" in trained
    assert "last trained token: '<end>'" in trained


def test_question_and_perspective_can_be_chosen_and_unknown_are_refused(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    rows = "".join(
        f'{{"id": "q{n}", "question": "What is {n}?", "answer": "{n}", "rationale": "It is {n}."}}\n' for n in range(3)
    )
    (tmp_path / "own.jsonl").write_text(rows)
    run_tree["questions"]["train"] = [{"kind": "file", "path": "own.jsonl", "answer_type": "number"}]
    config = write_config(tmp_path, run_tree)
    said = show(config, "--question", "q2", "--perspective", "planning").output
    assert "teacher, planning" in said
    assert "What is 2?" in said
    assert "It is 2. The answer is" in said
    assert "the question's own" in said
    for words, error in ((("--question", "q9"), "no training question"), (("--perspective", "p"), "use one of formal")):
        answer = show(config, *words)
        assert answer.exit_code == 2
        assert error in answer.stderr


def test_a_chat_is_shown_with_its_system_turn_and_one_bos_token(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    import shutil

    shutil.copytree(run_tree["student"]["path"], tmp_path / "chatty")
    build_tokenizer(tmp_path / "chatty", bos_token="<begin>", chat_template=CHAT)
    run_tree["student"] = run_tree["teacher"] = {"path": "chatty", "turns": {"system": "Be brief."}}
    said = show(write_config(tmp_path, run_tree)).output
    assert said.count("<begin>[system]Be brief.[user]") == 2
    assert "'<begin>', 1 in the row" in said


def test_turns_with_chat_false_are_refused(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    run_tree["teacher"] = {**run_tree["teacher"], "turns": {"system": "Be brief."}}
    answer = show(write_config(tmp_path, run_tree))
    assert answer.exit_code == 2
    assert "turns: chat is false, so there are no turns" in answer.stderr


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_missing_model_folder_is_refused(tmp_path: Path, run_tree: dict[str, Any], role: str) -> None:
    run_tree[role] = {"path": str(tmp_path / "nothing")}
    answer = show(write_config(tmp_path, run_tree))
    assert answer.exit_code == 2
    assert f"{role}: " in answer.stderr


def test_a_question_that_synthesis_did_not_keep_is_said_to_be_one(undisturbed: Path) -> None:
    run = load_config(CONFIG, overrides(undisturbed, "http://127.0.0.1:9/v1"))
    _, origin = _rationale(run, Question("nowhere", "1+1?", "2", "number"), "formal")
    assert origin.startswith("a placeholder, because synthesis/")
    assert origin.endswith("kept none of formal for question 'nowhere'")
