"""Unavailable data sets: one clear line and exit code 2, before any model loads, without partial output.

Each case runs the real command in its own process, with the real `datasets` and a hub on loopback.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config.run import load_config
from pipeline.questions.named_benchmarks import entries
from stages.core.process import run_stage
from tests.support.commands import assert_refused, mind, question_rows
from tests.support.questions.hub import serve
from tests.support.questions.layouts import BY_HAND, write_by_hand, write_layout
from tests.support.runs import write_config

Tree = dict[str, Any]
PINNED = str(entries()["gsm8k"].source["revision"])
GPQA = str(entries()["gpqa-diamond"].source["revision"])
OTHER = "0" * 40
CARD = "configs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n  - split: test\n    path: main/test-*\n"
GSM8K = {"kind": "named", "name": "gsm8k", "split": "train"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub with GSM8K, and with GPQA for requests that have a token; commands of the test use it."""
    root = tmp_path / "hub"
    write_layout(root / "openai" / "gsm8k" / PINNED, BY_HAND["gsm8k"], CARD)
    write_by_hand(root / "Idavidrein", "gpqa-diamond")
    (root / "Idavidrein" / "gpqa").mkdir()
    (root / "Idavidrein" / "gpqa-diamond").rename(root / "Idavidrein" / "gpqa" / GPQA)
    with serve(root, gated=frozenset({"Idavidrein/gpqa"})) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_OFFLINE")
        yield root


def asking(folder: Path, tree: Tree, *train: Tree, evaluation: Tree | None = None) -> str:
    """Writes a configuration with these questions and returns its path."""
    tree = {**tree, "questions": {**tree["questions"], "train": list(train) or tree["questions"]["train"]}}
    if evaluation is not None:
        tree["questions"]["evaluation"] = [
            {"name": "set", "group": "ood", "source": evaluation},
            *tree["questions"]["evaluation"],
        ]
    return str(write_config(folder, tree))


def nothing_written(folder: Path) -> None:
    assert not list(folder.glob("artifacts/questions/*/manifest.json"))


def test_a_named_set_uses_its_pinned_revision_from_hub_or_cache_only(
    tmp_path: Path, run_tree: Tree, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("online", "offline"):
        answer = mind("stage", "questions", asking(tmp_path / place, run_tree, GSM8K))
        assert answer.returncode == 0, answer.stderr
        (table,) = (tmp_path / place).glob("artifacts/questions/*/questions-*.parquet")
        assert pq.read_table(table)["id"].to_pylist()[-1] == "gsm8k/train/1"
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    other = {"kind": "hub", "name": "openai/gsm8k", "subset": "main", "revision": OTHER}
    answer = mind("stage", "questions", asking(tmp_path / "other", run_tree, other))
    assert_refused(answer, "openai/gsm8k", "Couldn't reach", "HF_HUB_OFFLINE", "give a folder")
    nothing_written(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", "id,question,answer,answer_type\n001,Which code?,0042,text\n002,Which day?,2019-03-01,text\n"),
        ("train.jsonl", '{"id": "001", "question": "Which code?", "answer": "0042", "answer_type": "text"}\n'
                        '{"id": "002", "question": "Which day?", "answer": "2019-03-01", "answer_type": "text"}\n'),
    ],
)  # fmt: skip
def test_rows_from_the_hub_are_unchanged_with_and_without_a_network(
    tmp_path: Path, run_tree: Tree, hub: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    folder = hub / "someone" / "codes" / PINNED
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    source = {"kind": "hub", "name": "someone/codes", "revision": PINNED}
    for place in ("online", "offline"):
        answer = mind("stage", "questions", asking(tmp_path / place, run_tree, source))
        assert answer.returncode == 0, answer.stderr
        assert "it/s" not in answer.stderr
        (table,) = (tmp_path / place).glob("artifacts/questions/*/questions-*.parquet")
        rows = [row for row in pq.read_table(table).to_pylist() if row["role"] == "train"]
        assert [(row["id"], row["answer"]) for row in rows] == [("001", "0042"), ("002", "2019-03-01")]
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [("openai/gsm9k", PINNED, ("doesn't exist", "check name")), ("openai/gsm8k", OTHER, ("Revision", OTHER, "check name"))],
)
def test_a_data_set_or_revision_missing_on_the_hub_is_named(
    tmp_path: Path, run_tree: Tree, hub: Path, name: str, revision: str, words: tuple[str, ...]
) -> None:
    config = asking(tmp_path, run_tree, {"kind": "hub", "name": name, "subset": "main", "revision": revision})
    assert_refused(mind("stage", "questions", config), name, *words)
    nothing_written(tmp_path)


def test_a_gated_data_set_explains_access_and_never_shows_the_token(
    tmp_path: Path, run_tree: Tree, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = asking(tmp_path, run_tree, evaluation={"kind": "named", "name": "gpqa-diamond"})
    assert_refused(
        mind("stage", "questions", config), "Idavidrein/gpqa", "is gated", "accept its terms", "HF_TOKEN", "give a folder"
    )
    nothing_written(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    answer = mind("stage", "questions", config)
    assert answer.returncode == 0, answer.stderr
    assert "hf_secret" not in answer.stdout + answer.stderr
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]


def test_without_a_network_and_a_copy_a_hub_data_set_is_refused(tmp_path: Path, run_tree: Tree) -> None:
    answer = mind("stage", "questions", asking(tmp_path, run_tree, GSM8K))
    assert_refused(answer, "openai/gsm8k", "Couldn't reach", "HF_HUB_OFFLINE", "give a folder")
    nothing_written(tmp_path)


def test_a_missing_local_copy_is_named_before_anything_runs(tmp_path: Path, run_tree: Tree) -> None:
    run_tree["questions"]["folder"] = "data"
    assert_refused(mind("plan", asking(tmp_path, run_tree, GSM8K)), str(tmp_path / "data" / "gsm8k"), "no such folder")


def test_training_on_an_evaluation_only_set_is_refused(tmp_path: Path, run_tree: Tree) -> None:
    config = asking(tmp_path, run_tree, {"kind": "named", "name": "bbh"})
    assert_refused(
        mind("plan", config), "train.0 is for evaluation only", "authors of BIG-bench", "despite_evaluation_only: true"
    )


LONG = "word " * 6_000
"""About 30,000 tokens."""


def test_overlong_questions_are_refused_or_left_out_and_counted(tmp_path: Path, run_tree: Tree) -> None:
    for name in ("train", "set"):
        content = question_rows(*({"question": f"{name} {text}"} for text in ("1?", LONG, "2?", f"{LONG}?")))
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({**row, "id": f"{name} {row['id']}"}) + "\n" for row in content)
        )
    train, evaluated = ({"kind": "file", "path": str(tmp_path / f"{name}.jsonl")} for name in ("train", "set"))
    config = asking(tmp_path, run_tree, train, evaluation=evaluated)
    run_stage(load_config(Path(config)), "questions")
    words = ("context of 2048", "raise engine.max_context", "max_characters")
    assert_refused(mind("stage", "references", config), "'set q3'", "longest of 2", *words)
    assert_refused(mind("stage", "sampling", config), "'train q3'", "longest of 16", *words)  # one prompt per perspective

    short = asking(tmp_path, run_tree, {**train, "max_characters": 1000}, evaluation={**evaluated, "max_characters": 1000})
    summary = run_stage(load_config(Path(short)), "questions").summary
    assert summary["left_out_because_long"] == {"set": 2, "training questions": 2}
    assert summary["evaluation"]["set"] == 2
