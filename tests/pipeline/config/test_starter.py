"""`mind init` writes a configuration that loads, or prints a one-line error and writes no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli.app import app
from pipeline.config.run import load_config
from tests.support.models import CHAT, build_tokenizer

REVISION = "0" * 40


def init(file: Path, **answers: str) -> Result:
    words = [word for name, answer in answers.items() for word in (f"--{name}", answer)]
    return CliRunner().invoke(app, ["init", str(file), *words])


@pytest.fixture
def answers(tiny_model: Path, tmp_path: Path) -> dict[str, str]:
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": "1", "question": "1+1?", "answer": "2", "answer_type": "number"}\n')
    return {"teacher": f"some/teacher@{REVISION}", "student": str(tiny_model), "train": f"{own},gsm8k", "evaluate": str(own)}


@pytest.mark.parametrize("gpus", ["0", "1", "3", "8"])
def test_five_answers_make_a_configuration_that_loads(tmp_path: Path, answers: dict[str, str], gpus: str) -> None:
    file = tmp_path / "run.yaml"
    answer = init(file, **answers, outside="strategy-qa", gpus=gpus)
    assert answer.exit_code == 0, answer.output
    assert "next: mind doctor" in answer.output
    run = load_config(file)
    assert run.name == "run"
    assert (run.teacher.name, run.teacher.revision) == ("some/teacher", REVISION)
    assert str(run.student.path) == answers["student"]
    assert not run.student.chat
    assert run.teacher.chat
    assert [source.kind for source in run.questions.train] == ["file", "named"]
    assert [(item.name, item.group) for item in run.questions.evaluation] == [("own", "id"), ("strategy-qa", "ood")]
    assert run.training.ranks == max(1, int(gpus))
    assert run.training.precision == ("bf16" if int(gpus) else "fp32")
    assert run.sampling.engine.tensor_parallel == max(1, int(gpus))


def test_a_student_with_a_chat_template_gets_chat_true(tmp_path: Path, answers: dict[str, str]) -> None:
    build_tokenizer(tmp_path / "chatty", chat_template=CHAT)
    assert init(tmp_path / "run.yaml", **{**answers, "student": str(tmp_path / "chatty")}).exit_code == 0
    assert load_config(tmp_path / "run.yaml").student.chat


@pytest.mark.parametrize("file", ["2024.yaml", "run one.yaml", "my test.v2.yaml"])
def test_any_file_name_is_accepted_for_output_and_data(tmp_path: Path, answers: dict[str, str], file: str) -> None:
    data = tmp_path / "my test.jsonl"
    data.write_text(Path(answers["evaluate"]).read_text())
    answer = init(tmp_path / file, **{**answers, "evaluate": str(data)})
    assert answer.exit_code == 0, answer.output
    assert load_config(tmp_path / file).questions.evaluation[0].name == "my-test"


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("gsm8k/test.parquet", "svamp/test.parquet"), ["gsm8k", "svamp"]),
        (("bbh/dev/navigate.parquet", "bbh/dev/dates.parquet"), ["navigate", "dates"]),
        (("arc/data/test-00000-of-00001.parquet", "boolq/main/validation.parquet"), ["arc", "boolq"]),
        (("new/sums/test.jsonl", "old/sums/test.jsonl"), ["sums", "old-sums"]),
        (("sums/test.jsonl", "sums/validation.jsonl"), ["sums", "{top}-sums"]),
    ],
)
def test_sets_are_named_after_the_folder_where_files_are_named_after_splits(
    tmp_path: Path, answers: dict[str, str], files: tuple[str, ...], names: list[str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    first, *others = (str(tmp_path / file) for file in files)
    answer = init(tmp_path / "run.yaml", **{**answers, "evaluate": first, "outside": ",".join(others)})
    assert answer.exit_code == 0, answer.output
    found = [(item.name, item.group) for item in load_config(tmp_path / "run.yaml").questions.evaluation]
    assert found == [(name.format(top=tmp_path.name), group) for name, group in zip(names, ("id", "ood"), strict=True)]


def test_training_on_a_cpu_uses_all_of_its_cores(tmp_path: Path, answers: dict[str, str]) -> None:
    for gpus, threads in (("0", len(os.sched_getaffinity(0))), ("2", 1)):
        assert init(tmp_path / f"{gpus}.yaml", **answers, gpus=gpus).exit_code == 0
        assert load_config(tmp_path / f"{gpus}.yaml").training.threads_per_rank == threads


def test_a_missing_output_folder_is_named(tmp_path: Path, answers: dict[str, str]) -> None:
    answer = init(tmp_path / "nowhere" / "run.yaml", **answers)
    assert answer.exit_code == 2
    assert f"no such folder {tmp_path / 'nowhere'}" in answer.stderr


def test_answers_that_make_an_invalid_configuration_leave_no_file(tmp_path: Path, answers: dict[str, str]) -> None:
    answer = init(tmp_path / "run.yaml", **{**answers, "evaluate": f"{answers['evaluate']},{answers['evaluate']}"})
    assert answer.exit_code == 2
    assert ".partial" not in answer.stderr
    assert not list(tmp_path.glob("*run.yaml*"))


def test_a_served_teacher_gets_the_openai_engine(tmp_path: Path, answers: dict[str, str]) -> None:
    assert init(tmp_path / "run.yaml", **{**answers, "teacher": "http://127.0.0.1:8000/v1 big-one"}).exit_code == 0
    run = load_config(tmp_path / "run.yaml")
    assert run.teacher.served
    assert (run.sampling.engine.kind, run.sampling.engine.served_model) == ("openai", "big-one")
    assert run.evaluation.engine.kind == "vllm"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"teacher": "http://127.0.0.1:8000/v1"}, "no model name; give the address"),
        ({"teacher": "nowhere"}, "--teacher nowhere: no such folder; give a folder, or a hub name and revision"),
        ({"teacher": "some/teacher@main"}, "40 hex digits"),
        ({"train": "missing.parquet"}, "missing.parquet: no such file"),
        ({"train": "gsm9k"}, "mind sources"),
        ({"train": "math500"}, "math500: has no suitable split"),
    ],
)
def test_a_wrong_answer_is_refused_and_leaves_no_file(
    tmp_path: Path, answers: dict[str, str], wrong: dict[str, str], said: str
) -> None:
    answer = init(tmp_path / "run.yaml", **{**answers, **wrong})
    assert answer.exit_code == 2
    assert said in answer.stderr
    assert not list(tmp_path.glob("*run.yaml*"))
    assert not list(tmp_path.glob(".*"))


def test_a_missing_answer_is_named_without_a_terminal(tmp_path: Path, answers: dict[str, str]) -> None:
    del answers["student"]
    answer = init(tmp_path / "run.yaml", **answers)
    assert answer.exit_code == 2
    assert "--student: missing" in answer.stderr


def test_an_existing_file_is_not_overwritten(tmp_path: Path, answers: dict[str, str]) -> None:
    (tmp_path / "run.yaml").write_text("mine")
    assert init(tmp_path / "run.yaml", **answers).exit_code == 2
    assert (tmp_path / "run.yaml").read_text() == "mine"
