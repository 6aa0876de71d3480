"""Imported rationales in the sampling stage: matched, graded, resumed after a kill, and used by later stages."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.run import RunConfig
from pipeline.errors import QuestionError
from pipeline.miniature.styles import RING_STYLES, solution
from pipeline.questions.procedural import distinct, question_id
from pipeline.questions.question import Question
from stages.core.plan import plan
from stages.core.process import run_stage, store_of
from stages.core.progress import Progress
from stages.sampling import stage as sampling
from storage.artifact import Artifact, Draft
from tests.support.artifacts import write_artifact
from tests.support.fake_teacher import serve
from tests.support.questions.layouts import BENCHMARKS
from tests.support.questions.tables import training_table
from tests.support.runs import REPOSITORY, tree_of, write_config
from tests.support.synthetic_artifacts import question, rationale

QUESTIONS = 7
Tree = dict[str, Any]


def training_artifact(root: Path, asked: list[Question]) -> Artifact:
    def write(draft: Draft) -> dict[str, Any]:
        draft.write_shard("questions", training_table(asked))
        return {"train": len(asked)}

    root.mkdir(exist_ok=True)
    return write_artifact(root, "questions", write)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return training_artifact(tmp_path_factory.mktemp("questions"), [question(n) for n in range(QUESTIONS)])


def rows(numbers: list[int]) -> list[Tree]:
    """Two rows per question in mixed order, one of them wrong for odd questions; plus two rows without a question here."""
    found = [
        {"who": question(n).question.upper(), "id": question(n).id, "how": how, "what": rationale(n + (n % 2) * k, k)}
        for n in numbers
        for k, how in enumerate(("formal", "planning"))
    ]
    others = [{"who": f"Who is {n}?", "id": f"x/{n}", "how": "formal", "what": "Nobody."} for n in range(2)]
    return random.Random(0).sample(found + others, len(found) + 2)


def run_of(model: Path, path: Path, per_shard: int = 3, **given: Any) -> RunConfig:
    columns = {"question": "who", "text": "what", "perspective": "how"}
    tree = tree_of(model) | {"teacher": {"imported": True}}
    tree |= {} if "places" in given else {"only_perspectives": ["formal", "planning"]}
    tree["sampling"] = {"rationales": {"path": str(path), "columns": columns, **given}, "questions_per_shard": per_shard}
    return RunConfig.model_validate(tree)


def brought_in(root: Path, run: RunConfig, read: Artifact, kept: Artifact | None = None) -> Artifact:
    """The stage's artifact; the first shard of `kept` is already committed, as after a kill."""
    config = sampling.config_of(run)

    def write(draft: Draft) -> Tree:
        if kept is not None:
            draft.write_shard("samples", kept.table("samples").slice(0, 3 * 2))
        return sampling.run(config, {"questions": read}, draft, Progress(root / "progress", "sampling"))

    root.mkdir(exist_ok=True)
    return write_artifact(root, "sampling", write)


def file_of(folder: Path, found: list[Tree]) -> Path:
    path = folder / "given.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.mark.parametrize("by", ["question", "question_id"])
def test_imported_rationales_become_graded_samples_of_their_questions(
    tmp_path: Path, tiny_model: Path, questions: Artifact, by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file_of(tmp_path, rows(list(range(QUESTIONS))))
    columns = {by: {"question": "who", "question_id": "id"}[by], "text": "what", "perspective": "how"}
    made = brought_in(tmp_path / "made", run_of(tiny_model, path, columns=columns), questions)
    found = {(row["question_id"], row["perspective"]): row for row in made.table("samples").to_pylist()}
    assert len(found) == made.table("samples").num_rows == 2 * QUESTIONS
    assert made.table("samples").schema == sampling.SCHEMA
    for n in range(QUESTIONS):
        for k, how in enumerate(("formal", "planning")):
            row = found[question(n).id, how]
            assert row["text"] == rationale(n + (n % 2) * k, k)
            assert row["outcome"] == ("wrong" if n % 2 and k else "correct")
            assert row["gold"] == question(n).answer
    assert made.summary["right"] == 2 * QUESTIONS - QUESTIONS // 2
    assert (made.summary["given"], made.summary["given_about_no_question"]) == (2 * QUESTIONS + 2, 2)
    said = capsys.readouterr().out
    assert "2 of 16 imported rationales match no training question: " in said
    assert ("'Who is 0?'" in said) == (by == "question")


def test_a_resumed_import_equals_an_undisturbed_one(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    path = file_of(tmp_path, rows(list(range(QUESTIONS))))
    whole = brought_in(tmp_path / "whole", run_of(tiny_model, path), questions)
    resumed = brought_in(tmp_path / "resumed", run_of(tiny_model, path, 2), questions, whole)
    assert resumed.table("samples") == whole.table("samples")
    assert resumed.summary == whole.summary


def test_unlabelled_rows_are_numbered_in_turn_and_none_is_lost(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    path = file_of(tmp_path, [{"who": question(0).question, "what": rationale(0, k)} for k in range(5)])
    given = {"columns": {"question": "who", "text": "what"}, "unlabelled": "numbered", "places": 3}
    made = brought_in(tmp_path / "made", run_of(tiny_model, path, **given), questions)
    found = [(row["perspective"], row["sample_index"], row["text"]) for row in made.table("samples").to_pylist()]
    places = [("given-1", 0), ("given-2", 0), ("given-3", 0), ("given-1", 1), ("given-2", 1)]
    assert found == [(*place, rationale(0, k)) for k, place in enumerate(places)]
    assert made.summary["questions"] == 1, "the others have none"


@pytest.mark.parametrize("labelled", [True, False])
def test_an_unfinished_rationale_is_truncated(tmp_path: Path, tiny_model: Path, questions: Artifact, labelled: bool) -> None:
    asked, answer = question(0), question(0).answer
    whole, cut = f"So it is {answer}. The answer is {answer}.", f"So it is {answer}. The answer is {answer}"
    found = [
        {"who": asked.question, "how": how, "what": text, "end": end}
        for how, text, end in (("formal", whole, "stop"), ("planning", cut, "length"))
    ]
    columns = {"question": "who", "text": "what", "finished": "end"} | ({"perspective": "how"} if labelled else {})
    given = {"columns": columns} | ({} if labelled else {"unlabelled": "numbered", "places": 2})
    made = brought_in(tmp_path / "made", run_of(tiny_model, file_of(tmp_path, found), **given), questions)
    rows = made.table("samples").to_pylist()
    assert [(row["text"], row["finish_reason"], row["outcome"]) for row in rows] == [
        (whole, "stop", "correct"),
        (cut, "length", "truncated"),
    ]


def test_an_import_without_a_matching_question_is_refused(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    path = file_of(tmp_path, rows([]))
    with pytest.raises(QuestionError) as raised:
        brought_in(tmp_path / "made", run_of(tiny_model, path), questions)
    assert str(raised.value).startswith(f"{path}: none of 2 rows matches a training question: rows have 'Who is")
    assert f"the first training question is {question(0).question!r}; correct columns.question" in str(raised.value)


@pytest.mark.parametrize("form", ["({}) {}", "{}) {}", "{}. {}"])
def test_a_row_with_choices_belongs_to_the_question_with_these_choices(tmp_path: Path, tiny_model: Path, form: str) -> None:
    asked = [Question(name, "Which is it?", "A", "choice", (name, "none")) for name in ("crow", "cat")]
    read = training_artifact(tmp_path / "questions", asked)
    stated = [form.format("A", "cat"), form.format("B", "none")]
    path = file_of(tmp_path, [{"who": "\n".join(["Which is it?", *stated]), "how": "formal", "what": rationale(0, 0)}])
    made = brought_in(tmp_path / "made", run_of(tiny_model, path), read)
    assert [row["question_id"] for row in made.table("samples").to_pylist()] == ["cat"]


def test_a_row_whose_wording_several_questions_have_is_refused_with_their_ids(tmp_path: Path, tiny_model: Path) -> None:
    asked = [Question(name, "Which is it?", "A", "choice", (name, "none")) for name in ("crow", "cat")]
    read = training_artifact(tmp_path / "questions", [question(0), *asked])
    path = file_of(tmp_path, [*rows([0]), {"who": "Which is it?", "how": "formal", "what": rationale(0, 0)}])
    with pytest.raises(QuestionError) as raised:
        brought_in(tmp_path / "made", run_of(tiny_model, path), read)
    assert str(raised.value) == (
        f"{path}: row 5: 2 training questions, 'cat' and 'crow' among them, have the wording 'Which is it?'; "
        "name each row's question by its id: sampling.rationales.columns.question_id"
    )


@pytest.mark.parametrize("mark", ["<|im_end|>", " </s>\n", "<｜end▁of▁sentence｜>", "<end_of_turn>\n<|endoftext|>"])
def test_marks_that_end_a_turn_are_removed_and_others_refused(
    tmp_path: Path, tiny_model: Path, questions: Artifact, mark: str
) -> None:
    whole = rationale(0, 0)
    path = file_of(tmp_path, [{"who": question(0).question, "how": "formal", "what": whole + mark}])
    made = brought_in(tmp_path / "made", run_of(tiny_model, path), questions)
    assert made.table("samples")["text"].to_pylist() == [whole]
    path = file_of(tmp_path, [{"who": question(0).question, "how": "formal", "what": f"So.<|im_end|>{whole}"}])
    with pytest.raises(QuestionError, match=r"row 1: column 'what': has the mark '<\|im_end\|>' inside; cut the text there"):
        brought_in(tmp_path / "again", run_of(tiny_model, path), questions)


def test_the_judge_decides_about_imported_rationales_that_rules_cannot_read(
    tmp_path: Path, tiny_model: Path, questions: Artifact
) -> None:
    texts = [rationale(0, 0), "Whoever thinks knows.", "Who knows."]
    path = file_of(tmp_path, [{"who": question(n).question, "how": "formal", "what": text} for n, text in enumerate(texts)])
    with serve(lambda prompt, seed: "CORRECT" if "thinks" in prompt else "Hard to say.") as url:
        engine = {"kind": "openai", "base_url": url, "served_model": "simulated"}
        run = run_of(tiny_model, path)
        judge = {"model": {"served": True, "chat": False}, "engine": engine}
        tree = run.model_dump(mode="json", exclude_unset=True)
        tree["sampling"]["judge"] = judge
        made = brought_in(tmp_path / "made", RunConfig.model_validate(tree), questions)
    rows = [(row["outcome"], row["rule"], row["verdict"]) for row in made.table("samples").to_pylist()]
    assert rows == [("correct", "boxed", None), ("correct", "judge", "correct"), ("unparsed", None, "unreadable")]
    assert made.summary["judged"] == {"correct": 1, "unreadable": 1}


def test_contradictory_settings_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    path = file_of(tmp_path, rows([0]))
    with pytest.raises(ValueError, match="remove perspectives, only_perspectives"):
        run_of(tiny_model, path, names={"formal": "mine"})
    with pytest.raises(ValueError, match=r"there are no rationales; set sampling\.rationales"):
        RunConfig.model_validate(tree_of(tiny_model) | {"teacher": {"imported": True}})
    with pytest.raises(ValueError, match=r"student\n  its weights are needed here"):
        RunConfig.model_validate(tree_of(tiny_model) | {"student": {"imported": True}})


def test_teacher_settings_are_not_part_of_the_import_fingerprint(tmp_path: Path, tiny_model: Path) -> None:
    path = file_of(tmp_path, rows([0]))
    one = plan(run_of(tiny_model, path))
    tree = run_of(tiny_model, path).model_dump(exclude={"teacher"}) | {"teacher": {"path": str(tiny_model)}}
    tree["sampling"] |= {"temperature": 0.1, "max_tokens": 7}
    other = plan(RunConfig.model_validate(tree))
    assert one["sampling"].fingerprint == other["sampling"].fingerprint
    assert one["references"].fingerprint != other["references"].fingerprint, "there a teacher is asked"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert plan(run_of(tiny_model, file_of(moved, rows([0]))))["sampling"].fingerprint == one["sampling"].fingerprint
    assert plan(run_of(tiny_model, file_of(moved, rows([1]))))["sampling"].fingerprint != one["sampling"].fingerprint


def test_a_missing_column_is_refused_before_any_stage_runs(tmp_path: Path, tiny_model: Path) -> None:
    path = file_of(tmp_path, rows([0]))
    tree = run_of(tiny_model, path).model_dump(mode="json", exclude_none=True)
    tree["sampling"]["rationales"]["columns"]["text"] = "rationale"
    config = write_config(tmp_path, tree | {"root": str(tmp_path / "root")})
    command = [sys.executable, "-m", "flows.cli", "run", str(config)]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 2
    said = answer.stderr.strip()
    assert said == f"mind: {path}: row 1: no column 'rationale' (it has {', '.join(rows([0])[0])}); map it under columns"
    assert not (tmp_path / "root").exists()


def test_recorded_rationales_of_strategy_qa_are_imported(tmp_path: Path, tiny_model: Path) -> None:
    """StrategyQA: human facts and decompositions without an answer, and a model's chains of thought with an answer column."""
    labels = {"sampled chain of thought": "thought", "facts": "facts", "question decomposition": "parts"}
    tree = tree_of(tiny_model) | {"root": str(tmp_path / "root"), "teacher": {"imported": True}}
    tree["questions"]["train"] = [{"kind": "file", "path": str(BENCHMARKS / "strategyqa/train.parquet")}]
    tree["sampling"] = {
        "rationales": {
            "path": str(BENCHMARKS / "strategyqa/rationales.parquet"),
            "columns": {
                "question_id": "question_id", "text": "rationale", "answer": "predicted_answer", "perspective": "perspective",
            },
            "names": labels,
        }
    }  # fmt: skip
    run = RunConfig.model_validate(tree)
    asked = run_stage(run, "questions").summary["train"]
    made = run_stage(run, "sampling")
    recorded = pq.read_table(BENCHMARKS / "strategyqa/rationales.parquet")
    pool = set(pq.read_table(BENCHMARKS / "strategyqa/train.parquet")["id"].to_pylist())
    mine = [row for row in recorded.to_pylist() if row["question_id"] in pool]
    assert (made.summary["questions"], made.summary["samples"], made.summary["given"]) == (asked, len(mine), recorded.num_rows)
    thoughts = [row for row in mine if row["predicted_answer"] is not None]
    assert made.summary["outcomes"]["thought"]["correct"] == sum(row["is_correct"] for row in thoughts)
    assert made.summary["outcomes"]["parts"]["correct"] < 0.1 * made.summary["samples"] / 3, (
        "they are questions, and answer none"
    )
    by_text = Counter(row["text"].partition("\nThe answer is")[0] for row in made.table("samples").to_pylist())
    assert by_text == Counter(row["rationale"] for row in mine)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "labelled", [pytest.param(True, id="labelled", marks=pytest.mark.soak), pytest.param(False, id="clustered")]
)
def test_imported_rationales_train_a_student(tmp_path: Path, labelled: bool) -> None:
    """Texts in four styles for 30 of 40 questions, through synthesis and two training steps of the miniature student."""
    student = REPOSITORY / "pipeline/miniature/models/student"
    problems, styles = list(distinct("dial", "train", 40, 0))[:30], list(RING_STYLES)[:4]
    found = [
        {"question_id": question_id(problem), "style": style, "text": solution(problem, style, random.Random(n))}
        for n, problem in enumerate(problems)
        for style in styles
    ]
    pq.write_table(pa.Table.from_pylist(found), tmp_path / "given.parquet")
    engine = {"kind": "transformers", "dtype": "float32"}
    how = {"columns": {"question_id": "question_id", "perspective": "style"}} if labelled else {
        "columns": {"question_id": "question_id"}, "unlabelled": "clustered", "places": 4,
    }  # fmt: skip
    tree = tree_of(student) | {"root": str(tmp_path / "root"), "teacher": {"imported": True}}
    tree |= {"prompts": {"question": "Question: {{ question }}\nSolution:\n"}}
    tree["questions"]["train"][0]["count"] = 40
    tree["sampling"] = {"rationales": {"path": str(tmp_path / "given.parquet"), **how}}
    tree["synthesis"] = {
        "engine": engine, "attempts": 1, "max_tokens": 64, "keep_easy": 1.0, "min_perspectives": 2, "warm_up_epochs": 2,
        "metanet": {"width": 16, "heads": 2},
    }  # fmt: skip
    tree["training"] = {
        "steps": 2, "questions_per_step": 4, "questions_per_micro_batch": 4, "precision": "fp32", "zero_stage": 0, "max_length": 512,
    }  # fmt: skip
    config = write_config(tmp_path, tree)
    for stage in ("questions", "sampling", "synthesis", "training"):
        command = [sys.executable, "-m", f"stages.{stage}", "--config", str(config)]
        answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=400)
        assert answer.returncode == 0, answer.stderr
    run = RunConfig.model_validate(tree)
    store, planned = store_of(run), plan(run)
    made = {name: store.open(name, planned[name].fingerprint) for name in ("sampling", "synthesis", "training")}
    assert made["sampling"].summary["right"] == len(found)
    assert made["synthesis"].summary["questions"] == 30, "nobody attempts what has no rationale"
    assert made["synthesis"].summary["kept_questions"] > 20
    assert made["training"].summary["steps"] == 2
    assert made["training"].summary["tokens_trained"] > 0
    assert (made["training"].path("student") / "model.safetensors").is_file()
