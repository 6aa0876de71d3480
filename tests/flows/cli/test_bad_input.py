"""Bad input: one clear line and exit code 2, before any model loads, without partial output.

Each case runs the real command in its own process.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.support.commands import assert_refused, mind, question_rows
from tests.support.runs import write_config

Tree = dict[str, Any]


def set_in(tree: Tree, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("training.lerning_rate", 0.1, ("run.yaml", "training.lerning_rate", "did you mean 'learning_rate'")),
        ("training.steps", "many", ("training.steps", "integer", "'many'")),
        ("sampling.engine.kind", "vlm", ("sampling.engine.kind", "'vllm'", "'vlm'")),
        ("teacher.path", "/nowhere/teacher", ("teacher", "/nowhere/teacher", "no such model folder", "correct")),
        ("perspectives", "/nowhere/p.yaml", ("/nowhere/p.yaml", "no such file", "correct `perspectives`")),
        ("only_perspectives", ["formel"], ("only_perspectives", "'formel'", "did you mean 'formal'")),
        ("prompts.question", "{{ qestion }}", ("prompts", "qestion", "it may use question")),
        ("training.max_length", 10**6, ("training.max_length", "context", "lower it")),
        ("sampling.judge", {"model": {"served": True}}, ("sampling.judge", "no server answers", "openai")),
        ("sampling.judge", {"model": {"path": "/nowhere"}, "prompt": "{{ txt }}"}, ("prompts", "txt", "it may use answer, question, text")),
        (
            "sampling",
            {
                "judge": {"model": {"path": "/nowhere"}},
                "rationales": {"path": "r.jsonl", "columns": {"question": "q", "perspective": "p"}},
            },
            ("sampling.judge.model", "/nowhere", "no such model folder"),
        ),
        ("training.questions_per_step", 7, ("questions_per_step", "multiple of")),
        pytest.param(
            "training.packing", "flex", ("training.packing", "GPU", "rows"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so it is no mistake"),
        ),
    ],
)  # fmt: skip
def test_a_bad_field_is_named_with_its_remedy(tmp_path: Path, run_tree: Tree, path: str, value: Any, words: Any) -> None:
    set_in(run_tree, path, value)
    assert_refused(mind("run", str(write_config(tmp_path, run_tree))), *words)
    assert not (tmp_path / "artifacts").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert_refused(mind("run", str(tmp_path / "nothing.yaml")), "nothing.yaml", "no such file")


def test_an_unknown_stage_is_refused_with_the_known_ones(tmp_path: Path, run_tree: Tree) -> None:
    assert_refused(mind("stage", "samplin", str(write_config(tmp_path, run_tree))), "samplin", "sampling")


def test_a_perspective_named_twice_is_refused(tmp_path: Path, run_tree: Tree) -> None:
    one = {"name": "formal", "description": "d", "instruction": "i"}
    write_config(tmp_path, {"version": 1, "perspectives": [one, one]}, "p.yaml")
    assert_refused(
        mind("plan", str(write_config(tmp_path, {**run_tree, "perspectives": "p.yaml"}))), "p.yaml", "formal", "twice"
    )


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"all": ["(plan"]}, ("perspectives.0.form", "'(plan'", "is not a valid RE2 pattern", "missing )")),
        ({"any": ["plan"]}, ("perspectives.0.form.any", "unknown key")),
    ],
)
def test_a_bad_form_is_refused_before_anything_runs(tmp_path: Path, run_tree: Tree, form: Tree, words: tuple[str, ...]) -> None:
    one = {"name": "formal", "description": "d", "instruction": "i", "form": form}
    write_config(tmp_path, {"version": 1, "perspectives": [one]}, "p.yaml")
    assert_refused(mind("run", str(write_config(tmp_path, {**run_tree, "perspectives": "p.yaml"}))), "p.yaml", *words)
    assert not (tmp_path / "artifacts").exists()


def broken_model(change: Callable[[Path], None], model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    change(folder)
    return folder


def test_a_model_folder_without_weights_is_refused(tmp_path: Path, run_tree: Tree, tiny_model: Path) -> None:
    folder = broken_model(lambda path: (path / "model.safetensors").unlink(), tiny_model, tmp_path / "m")
    run_tree["student"] = {"path": str(folder)}
    assert_refused(mind("run", str(write_config(tmp_path, run_tree))), "student", str(folder), "no weights")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path, run_tree: Tree, tiny_model: Path) -> None:
    def shrink(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))

    run_tree["teacher"] = {"path": str(broken_model(shrink, tiny_model, tmp_path / "m"))}
    assert_refused(mind("run", str(write_config(tmp_path, run_tree))), "teacher", "tokenizer has", "vocabulary 100")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (question_rows({}, {"question": " "}), ("row 2", "'question'", "empty")),
        (question_rows({}, {"id": "q0"}), ("row 2", "'id'", "already used in row 1")),
        (question_rows({"answer": "ten"}), ("row 1", "'answer'", "'ten' is not a number")),
        (question_rows({"answer_type": "complex"}), ("row 1", "'answer_type'", "complex")),
        ([{"id": "a", "question": "?"}], ("no column 'answer'",)),
    ],
)
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_bad_row_is_named_with_file_row_and_column(
    tmp_path: Path, run_tree: Tree, content: list[Tree], words: tuple[str, ...], ending: str
) -> None:
    path = tmp_path / f"questions.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        words = ("'answer'",) if "no column" in words[0] else words
    run_tree["questions"]["train"] = [{"kind": "file", "path": str(path)}]
    assert_refused(mind("stage", "questions", str(write_config(tmp_path, run_tree))), str(path), *words)
    assert not list(tmp_path.glob("artifacts/questions/*/manifest.json"))


def test_an_overlong_question_is_refused_before_the_teacher_loads(tmp_path: Path, run_tree: Tree) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in question_rows({}, {"question": "why? " * 900})))
    run_tree["questions"]["train"] = [{"kind": "file", "path": str(path)}]
    run_tree["sampling"] = {"engine": {"max_context": 512}, "max_tokens": 64}
    config = str(write_config(tmp_path, run_tree))
    assert mind("stage", "questions", config).returncode == 0
    assert_refused(mind("stage", "sampling", config), "'q1'", "tokens", "context of 512")


def test_an_overlong_evaluation_question_is_refused_by_references(tmp_path: Path, run_tree: Tree) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in question_rows({}, {"question": "why? " * 900})))
    run_tree["questions"]["evaluation"][0]["source"] = {"kind": "file", "path": str(path)}
    run_tree["evaluation"] = {"engine": {"max_context": 512}, "max_tokens": 64}
    config = str(write_config(tmp_path, run_tree))
    assert mind("stage", "questions", config).returncode == 0
    assert_refused(mind("stage", "references", config), "'q1'", "tokens", "context of 512")


def test_a_stage_without_its_input_names_the_stage_to_run(tmp_path: Path, run_tree: Tree) -> None:
    assert_refused(
        mind("stage", "training", str(write_config(tmp_path, run_tree))), "training", "run the synthesis stage first"
    )


def test_an_unwritable_artifact_root_is_refused(tmp_path: Path, run_tree: Tree) -> None:
    (tmp_path / "file").write_text("")
    run_tree["root"] = str(tmp_path / "file" / "artifacts")
    assert_refused(mind("stage", "questions", str(write_config(tmp_path, run_tree))), "artifacts", "cannot be written")


def test_a_second_run_on_the_same_artifact_is_refused(tmp_path: Path, run_tree: Tree) -> None:
    from pipeline.config.run import load_config
    from stages.core.plan import plan
    from storage.store import open_store

    config = write_config(tmp_path, run_tree)
    loaded = load_config(config)
    planned = plan(loaded)["questions"]
    with open_store(loaded.root).draft("questions", planned.fingerprint):
        assert_refused(mind("stage", "questions", str(config)), f"questions/{planned.fingerprint}", "is writing it", "wait")
    assert mind("stage", "questions", str(config)).returncode == 0


def test_a_rendezvous_port_in_use_is_refused() -> None:
    from pipeline.errors import ConfigError
    from stages.training.launcher import choose_port

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"{port} is in use"):
            choose_port(port)


def test_if_no_rationale_survives_the_error_has_the_counts() -> None:
    from pipeline.errors import NothingSurvives
    from stages.synthesis.stage import _refuse_nothing

    with pytest.raises(NothingSurvives, match=r"too_few_perspectives 2.*lower synthesis\.min_perspectives"):
        _refuse_nothing({"questions": 2, "too_few_perspectives": 2, "kept_questions": 0}, 3)
