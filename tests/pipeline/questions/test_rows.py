"""Reads rows of files and hub-style folders unchanged, and refuses unreadable ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import QuestionError
from pipeline.questions.load import load
from pipeline.questions.rows import file_rows, hub_rows
from pipeline.questions.sources import Columns, HubSource
from tests.support.questions.layouts import BY_HAND, write_by_hand, write_layout

lines = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), newline="")
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
@given(st.lists(st.fixed_dictionaries({"id": lines, "question": lines}), min_size=1, max_size=4))
def test_texts_survive_a_file_round_trip(tmp_path: Path, ending: str, rows: list[dict[str, str]]) -> None:
    assert list(file_rows(write_rows(tmp_path / f"q.{ending}", rows))) == rows


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    texts = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\4\0\0\0"), pa.py_buffer(b"caf\xe9")])
    pq.write_table(pa.table({"question": texts}), tmp_path / "q.parquet")
    with pytest.raises(QuestionError, match=r"q\.parquet: a text after row 0 is not UTF-8"):
        list(file_rows(tmp_path / "q.parquet"))


def test_a_folder_with_a_card_is_read_without_a_stale_cache(tmp_path: Path) -> None:
    """`datasets` caches the rows of such folders and notices neither changes nor another folder of the same name."""
    card = "configs:\n- config_name: default\n  data_files: gsmhardv2*\n"
    for place, question in (("here", "1+1?"), ("here", "2+2?"), ("there", "3+3?")):
        folder = write_layout(tmp_path / place / "gsm-hard", {"gsmhardv2": [{"input": question, "target": 2.5}]}, card)
        assert [row["input"] for row in hub_rows(HubSource(folder=folder))] == [question]


def test_a_subset_is_a_folder_or_declared_by_the_card(tmp_path: Path) -> None:
    files = {f"{subset}/test": [{"question": subset}] for subset in ("main", "socratic")}
    plain = write_layout(tmp_path / "plain", files)
    assert [row["question"] for row in hub_rows(HubSource(folder=plain, subset="socratic", split="test"))] == ["socratic"]
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
