"""lm-eval export and comparison: equal prompt tokens, and every difference is due to text or grading."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.models import LocalModel
from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError
from pipeline.model_folders import load_tokenizer
from pipeline.prompt_rendering import prompt_tokens, student_prompt
from pipeline.questions.question import from_table
from stages import lm_eval
from storage.artifact import Artifact, Draft
from tests.support.artifacts import write_artifact
from tests.support.models import build_tokenizer
from tests.support.references import ITEMS, write_questions
from tests.support.runs import tree_of

TEMPLATE = "<begin>{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}{% if add_generation_prompt %}me:{% endif %}"


def run_of(model: Path, chat: bool) -> RunConfig:
    tree = tree_of(model) | {"prompts": {"question": "Question: {{ question }}\nSolution:\n"}}
    tree |= {"student": {"path": str(model), "chat": chat}}
    return RunConfig.model_validate(tree | {"evaluation": {"max_tokens": 33}})


@pytest.mark.parametrize("chat", [False, True])
def test_an_exported_item_has_the_prompt_tokens_of_the_run(tmp_path: Path, chat: bool) -> None:
    folder = tmp_path / "tokenizer"
    build_tokenizer(folder, bos_token="<begin>", chat_template=TEMPLATE)
    model = LocalModel(path=folder, chat=chat)
    run, questions, out = run_of(folder, chat), write_questions(tmp_path), tmp_path / "out"
    assert lm_eval.export(run, questions, model, out) == {"dial": ITEMS, "lift": ITEMS}, "the dev set is not asked"
    tokenizer = load_tokenizer(model)
    known = {item.id: item for item in from_table(questions.table("questions"))}
    for name in ("dial", "lift"):
        rows = [json.loads(line) for line in (out / name / "test.jsonl").read_text().splitlines()]
        assert {row["set"] for row in rows} == {name}
        for row in rows:
            item = known[row["question_id"]]
            asked = tokenizer(row["prompt"], add_special_tokens=not row["prompt"].startswith("<begin>"))["input_ids"]
            assert asked == prompt_tokens(tokenizer, student_prompt(run.prompts, item), model.dialogue)
            assert row["gold"] == item.answer
        task = yaml.safe_load((out / f"{name}.yaml").read_text())
        assert task["dataset_kwargs"]["data_files"]["test"] == str((out / name / "test.jsonl").resolve())
        until = [] if chat else ["\n\nQuestion:"]
        assert task["generation_kwargs"] == {"until": until, "do_sample": False, "temperature": 0.0, "max_gen_toks": 33}
        assert (task["task"], task["tag"]) == (f"mind_small_{name}", ["mind_small"])
    module = ast.parse((out / "lighteval_tasks.py").read_text())
    values = {node.value for node in ast.walk(module) if isinstance(node, ast.Constant)}
    assert {lm_eval._BOXED, "mind_small_", "dial", "lift", 33, *until} <= values
    with pytest.raises(ConfigError, match="already exists; give a new folder"):
        lm_eval.export(run, questions, model, out)


def test_the_items_are_read_by_datasets_as_lighteval_reads_them(tmp_path: Path, tiny_model: Path) -> None:
    from datasets import load_dataset

    model, questions = LocalModel(path=tiny_model, chat=False), write_questions(tmp_path)
    lm_eval.export(run_of(tiny_model, False), questions, model, tmp_path / "out")
    found = load_dataset(str(tmp_path / "out" / "dial"), "default", cache_dir=str(tmp_path / "cache"))
    assert list(found) == ["test"] and len(found["test"]) == ITEMS


CASES = {
    "same": (("5\u2028🙂", "5", "correct"), ("5\u2028🙂", "5", 1.0)),
    "other text": (("5", "5", "correct"), ("6", "6", 0.0)),
    "graded": (("it is 5", "5", "correct"), ("it is 5 ", "[invalid]", 0.0)),
    "both wrong": (("7", "7", "wrong"), ("8", "8", 0.0)),
}
"""By question: ours (text, parsed answer, outcome) and lm-eval's (text, parsed answer, score)."""


@pytest.fixture
def answers(tmp_path: Path) -> Artifact:
    from stages.shared.answering import SCHEMA

    def write(draft: Draft) -> dict[str, Any]:
        import pyarrow as pa

        rows = [
            {**dict.fromkeys(SCHEMA.names), "model": model, "set": "dial", "question_id": name, "text": text, "answer": read,
             "outcome": said}
            for model in ("student", "base")
            for name, ((text, read, said), _) in CASES.items()
        ]  # fmt: skip
        draft.write_shard("items", pa.Table.from_pylist(rows, schema=SCHEMA))
        return {}

    return write_artifact(tmp_path, "evaluation", write)


def sample(name: str, text: str, read: str, score: float, **changes: Any) -> dict[str, Any]:
    """A sample as lm-eval 0.4 writes it, with the fields that are read."""
    doc = {"question_id": name, "set": "dial", "prompt": "p", "gold": "5"}
    return {"doc_id": 0, "doc": doc, "target": "5", "resps": [[text]], "filtered_resps": [read], "filter": "boxed",
            "metrics": ["exact_match"], "exact_match": score, **changes}  # fmt: skip


def write_samples(folder: Path, found: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "samples_mind_small_dial_2026.jsonl"
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in found))
    return path


def test_every_difference_has_a_cause_and_counts_add_up(tmp_path: Path, answers: Artifact) -> None:
    write_samples(tmp_path / "results" / "model", [sample(name, *theirs) for name, (_, theirs) in CASES.items()])
    compared = lm_eval.compare(answers, "student", lm_eval.read_samples([tmp_path / "results"]))
    found = compared.both
    assert {item.question_id: item.cause for item in found} == {
        "same": None, "other text": "text", "graded": "grading", "both wrong": None,
    }  # fmt: skip
    first, last = lm_eval.table(compared)
    assert (first["set"], last["set"]) == ("dial", "all")
    assert {**first, "set": "all"} == last
    assert list(last.values())[1:] == [4, 0, 3, 1, 2, 2, 1, 1]
    assert next(item for item in found if item.question_id == "graded").theirs.read is None


def test_items_missing_from_lm_eval_are_counted(tmp_path: Path, answers: Artifact) -> None:
    write_samples(tmp_path / "results", [sample("same", *CASES["same"][1])])
    first, last = lm_eval.table(lm_eval.compare(answers, "student", lm_eval.read_samples([tmp_path / "results"])))
    assert (first["items"], first["not asked there"]) == (last["items"], last["not asked there"]) == (1, 3)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("First \\boxed{1}, then \\boxed {12}.", "12"),
        (r"It is \boxed{\frac{\sqrt{3}}{2}}.", r"\frac{\sqrt{3}}{2}"),
        (r"\boxed{\left\{x : \sqrt{\frac{1}{2}}\right\}}", r"\left\{x : \sqrt{\frac{1}{2}}\right\}"),
        ("\\boxed{\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}}", "\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}"),
        (r"\boxed{\frac{1}{2}", None),
    ],
)
def test_the_pattern_for_lm_eval_reads_braces_inside_a_box(tiny_model: Path, text: str, read: str | None) -> None:
    step = lm_eval._task(run_of(tiny_model, False), "dial", Path("x"), ())["filter_list"][0]["filter"][0]
    found = re.findall(step["regex_pattern"], text)
    assert (found[step["group_select"]] if found else None) == read


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"doc": {"question": "of another task"}},
            r"row 1: not a sample of a task exported by mind lm-eval \(KeyError: 'set'\)",
        ),
        ({"resps": []}, "row 1: not a sample"),
        (
            {"exact_match": 1.0, "doc": {"set": "dial", "question_id": "x"}},
            "student has no answer to 'x' of dial; compare with the run",
        ),
    ],
)
def test_samples_of_another_task_or_run_are_refused(
    tmp_path: Path, answers: Artifact, changes: dict[str, Any], said: str
) -> None:
    path = write_samples(tmp_path / "results", [sample("same", "5", "5", 1.0, **changes)])
    with pytest.raises(ConfigError, match=said):
        lm_eval.compare(answers, "student", lm_eval.read_samples([path]))


def test_two_runs_of_lm_eval_are_not_mixed(tmp_path: Path, answers: Artifact) -> None:
    path = write_samples(tmp_path / "results", [sample("same", "5", "5", 1.0)] * 2)
    with pytest.raises(ConfigError, match="'same' of dial twice; give the files of one"):
        lm_eval.compare(answers, "student", lm_eval.read_samples([path]))


def test_a_folder_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run it with --log_samples and --output_path"):
        list(lm_eval.read_samples([tmp_path]))
