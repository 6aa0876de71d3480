"""Reads hub-style folders: which files belong to a split, and the same rows as from each file alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import QuestionError
from pipeline.questions.data_sets import hub_rows
from pipeline.questions.load import load
from pipeline.questions.rows import file_rows
from pipeline.questions.sources import Columns, FileSource, HubSource
from tests.support.questions.layouts import BY_HAND, write_by_hand, write_layout


def test_a_folder_with_a_card_is_read_without_a_stale_cache(tmp_path: Path) -> None:
    """`datasets` caches the rows of such folders and notices neither changes nor another folder of the same name."""
    card = "configs:\n- config_name: default\n  data_files: gsmhardv2*\n"
    for place, question in (("here", "1+1?"), ("here", "2+2?"), ("there", "3+3?")):
        folder = write_layout(tmp_path / place / "gsm-hard", {"gsmhardv2": [{"input": question, "target": 2.5}]}, card)
        assert [found.row["input"] for found in hub_rows(HubSource(folder=folder))] == [question]


def test_a_subset_is_a_folder_or_declared_by_the_card(tmp_path: Path) -> None:
    files = {f"{subset}/test": [{"question": subset}] for subset in ("main", "socratic")}
    plain = write_layout(tmp_path / "plain", files)
    assert [found.row["question"] for found in hub_rows(HubSource(folder=plain, subset="socratic", split="test"))] == [
        "socratic"
    ]
    declared = write_by_hand(tmp_path, "gpqa-diamond")
    assert len(list(hub_rows(HubSource(folder=declared, subset="gpqa_diamond")))) == 8


def test_none_and_na_are_plain_answers_in_csv(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("question,answer\nHow many?,None\nWhat?,NA\n")
    source = HubSource(folder=tmp_path, split="test", columns=Columns(id=None), answer_type="text")
    assert [question.answer for question in load(source)] == ["none", "na"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"subset": "mian", "split": "test"}, "'mian' not found"),
        ({"subset": "main", "split": "tst"}, "tst.*test"),
        ({"subset": "main", "split": "test", "columns": Columns(id=None, question="prompt")}, "row 1: no column 'prompt'"),
        ({"subset": "main", "split": "test", "columns": Columns(id=None, choices="options")}, "no row has a column 'options'"),
    ],
)
def test_a_folder_without_the_requested_subset_split_or_column_is_refused(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    folder = write_layout(tmp_path / "gsm8k", BY_HAND["gsm8k"])
    with pytest.raises(QuestionError, match=said) as raised:
        list(load(HubSource(folder=folder, **fields)))
    assert str(raised.value).startswith(str(folder))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("test.jsonl", '{"question": "\\ud83d"}\n'), ("test.jsonl", ""), ("test.jsonl", '{"question": "a"'), ("note.txt.gz", "x"), (None, "")],
)  # fmt: skip
def test_a_folder_without_readable_rows_is_refused_in_one_line(tmp_path: Path, name: str | None, content: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    if name is not None:
        (folder / name).write_text(content)
    with pytest.raises(QuestionError, match=f"^{folder}") as raised:
        list(load(HubSource(folder=folder, split="test", columns=Columns(id=None, answer="question"))))
    assert "\n" not in str(raised.value)


CSV = "id,question,answer,answer_type\n001,Which code?,0042,text\n002,Which price?,1.50,text\n003,Which day?,2019-03-01,date\n"
JSONL = (
    '{"id": "a", "question": "Product?", "answer": 9007199254740993, "answer_type": "number"}\n'
    '{"id": "b", "question": "Price?", "answer": 1.50, "answer_type": "text"}\n'
    '{"id": "c", "question": "Which day?", "answer": "2019-03-01", "answer_type": "text"}\n\n'
)


@pytest.mark.parametrize(("ending", "content"), [("csv", CSV), ("jsonl", JSONL), ("csv.gz", CSV), ("jsonl.gz", JSONL)])
def test_a_folder_gives_the_questions_of_its_files(tmp_path: Path, ending: str, content: str) -> None:
    path = tmp_path / "folder" / "data" / f"train-00000-of-00001.{ending}"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(content.encode()) if ending.endswith(".gz") else content.encode())
    found = list(load(HubSource(folder=tmp_path / "folder")))
    assert [(item.id, item.answer) for item in found] == [(item.id, item.answer) for item in load(FileSource(path=path))]
    expected = {"0042", "1.50", "2019-03-01"} if ending.startswith("csv") else {"9007199254740993", "1.50", "2019-03-01"}
    assert {item.answer for item in found} == expected


def test_narrow_fractions_are_the_same_in_a_folder(tmp_path: Path) -> None:
    rows = {"id": ["1", "2"], "question": ["Price?", "Two?"], "answer": pa.array([0.1, 12.35], pa.float32())}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    for source in (
        HubSource(folder=tmp_path, answer_type="number"),
        FileSource(path=tmp_path / "train.parquet", answer_type="number"),
    ):
        assert [item.answer for item in load(source)] == ["1/10", "247/20"]


def numbered(folder: Path) -> Path:
    """A folder with two train files and a test file, rows numbered in order."""
    for name, numbers in (("train-00000-of-00002", (0, 1, 2)), ("train-00001-of-00002", (3,)), ("test-00000-of-00001", (4, 5))):
        path = folder / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"n": f"0{number}"}) + "\n" for number in numbers))
    return folder


@pytest.mark.parametrize(
    ("split", "numbers"),
    [("train", "0123"), ("test", "45"), ("all", "012345"), ("train[:50%]+test[1:]", "015"), ("test+train[3:]", "453")],
)
def test_a_split_has_all_its_files_in_order(tmp_path: Path, split: str, numbers: str) -> None:
    rows = [found.row for found in hub_rows(HubSource(folder=numbered(tmp_path), split=split))]
    assert sorted(row["n"] for row in rows) == sorted(f"0{number}" for number in numbers)
    if split != "all":
        assert [row["n"] for row in rows] == [f"0{number}" for number in numbers]


@pytest.mark.parametrize("split", ["train[:x]", "train[", "dev", "train+dev"])
def test_an_invalid_split_is_refused_in_one_line(tmp_path: Path, split: str) -> None:
    with pytest.raises(QuestionError, match=f"^{tmp_path}: ") as raised:
        list(hub_rows(HubSource(folder=numbered(tmp_path), split=split)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("card", "name", "content", "row"),
    [
        ("sep: ';'", "train.csv", "id;answer\n001;0042\n", {"id": "001", "answer": "0042"}),
        ("field: rows", "train.json", '{"rows": [{"id": "001", "answer": 1.50}]}', {"id": "001", "answer": "1.50"}),
    ],
)
def test_a_card_may_set_separator_and_field(tmp_path: Path, card: str, name: str, content: str, row: dict[str, str]) -> None:
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {name}\n  {card}\n---\n")
    (tmp_path / name).write_text(content)
    assert (
        [found.row for found in hub_rows(HubSource(folder=tmp_path))]
        == [row]
        == list(file_rows(tmp_path / name, separator=";" if "sep" in card else None, field="rows" if "field" in card else None))
    )


def test_files_that_need_guessed_types_are_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: train.csv\n  skiprows: 1\n---\n")
    (tmp_path / "train.csv").write_text("made by hand\nid,answer\n001,0042\n")
    with pytest.raises(
        QuestionError, match=r"the card's setting skiprows can be read only by guessing types.*; convert the files"
    ):
        list(hub_rows(HubSource(folder=tmp_path)))


def test_formats_with_types_of_their_own_are_read_by_datasets(tmp_path: Path) -> None:
    with (
        pa.OSFile(str(tmp_path / "train.arrow"), "wb") as file,
        pa.ipc.new_stream(file, pa.schema([("a", pa.string())])) as writer,
    ):
        writer.write_batch(pa.record_batch({"a": ["0042"]}))
    assert [dict(found.row) for found in hub_rows(HubSource(folder=tmp_path))] == [{"a": "0042"}]


def test_an_error_names_the_file_and_the_row_in_it(tmp_path: Path) -> None:
    for number, answers in enumerate((["1", "2"], ["3", "four"])):
        rows = ({"id": f"{number}{place}", "question": "?", "answer": answer} for place, answer in enumerate(answers))
        (tmp_path / f"train-{number:05d}-of-00002.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    second = tmp_path / "train-00001-of-00002.jsonl"
    with pytest.raises(QuestionError, match=f"^{second}: row 2: column 'answer': 'four' is not a number"):
        list(load(HubSource(folder=tmp_path, answer_type="number")))
    second.write_text('{"id": "01", "question": "?", "answer": "3"}\n')
    first = tmp_path / "train-00000-of-00002.jsonl"
    with pytest.raises(QuestionError, match=f"^{second}: row 1: column 'id': id '01' is already used in {first}: row 2; make"):
        list(load(HubSource(folder=tmp_path, answer_type="number")))
