from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import QuestionError
from pipeline.questions import load as source_questions
from pipeline.questions.load import content
from pipeline.questions.named_benchmarks import Source
from pipeline.questions.question import Question
from pipeline.questions.sources import Columns, FileSource, HubSource, MiniatureSource
from tests.support.questions.layouts import BENCHMARKS

GOOD: list[dict[str, Any]] = [
    {"id": "q1", "question": "What is 3+4?", "answer": "7", "answer_type": "number", "task": "sums"},
    {"id": "q2", "question": "Is ice cold?", "answer": "yes", "answer_type": "boolean", "task": "facts"},
    {"id": "q3", "question": "Which flies?", "answer": "B", "choices": ["cat", "crow"], "task": "facts"},
]


def load(source: Source) -> list[Question]:
    return list(source_questions.load(source))


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), path)
    return path


@pytest.mark.parametrize("write", [_jsonl, _parquet])
@pytest.mark.parametrize(
    ("number", "change", "column", "said"),
    [
        (2, {"question": ""}, "question", "empty"),
        (2, {"question": "  "}, "question", "empty"),
        (3, {"answer": None}, "answer", "empty"),
        (3, {"id": "q1"}, "id", "id 'q1' is already used in row 1"),
        (1, {"answer": "seven"}, "answer", "'seven' is not a number"),
        (2, {"answer": "maybe"}, "answer", "'maybe' is not a boolean"),
        (3, {"answer": "C"}, "answer", "'C' is not a choice"),
        (1, {"answer_type": "integer"}, "answer_type", "'integer' is not an answer type"),
    ],
)
def test_a_bad_row_is_refused_with_file_row_and_column(
    tmp_path: Path, write: Any, number: int, change: dict[str, Any], column: str, said: str
) -> None:
    rows = [{**row, **change} if index == number else row for index, row in enumerate(GOOD, 1)]
    path = write(tmp_path / ("q.jsonl" if write is _jsonl else "q.parquet"), rows)
    with pytest.raises(QuestionError) as raised:
        load(FileSource(path=path))
    assert str(raised.value).startswith(f"{path}: row {number}: column {column!r}: {said}")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    rows = [{"id": "q1", "prompt": "?", "answer": "7"}]
    for path in (_parquet(tmp_path / "q.parquet", rows), _jsonl(tmp_path / "q.jsonl", rows), _csv(tmp_path / "q.csv", rows)):
        with pytest.raises(
            QuestionError, match=r"row 1: no column 'question' \(it has .*id, prompt, answer\); map it under columns"
        ):
            load(FileSource(path=path))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.jsonl", b'{"id": "q1"', "row 1: not valid JSON"),
        ("q.jsonl", b"[1, 2]\n", "row 1: expected a JSON object"),
        ("q.jsonl", b"", "no rows"),
        ("q.jsonl", b'{"id": "q1", "question": "caf\xe9", "answer": "7"}\n', "row 1"),
        ("q.parquet", b"not parquet", "not a readable Parquet file"),
        ("q.jsonl", b'{"id": "q1", "question": "?", "answer": "7"}\n"text"\n', "row 2: expected a JSON object"),
        ("q.txt", b"id,question", "expected a file name ending in .parquet, .jsonl, .csv"),
        ("q.csv", b"id,question,answer\nq1,?\n", "row 1: number of fields differs"),
        ("q.csv", b"id,question,answer\nq1,?,7,8\n", "row 1: number of fields differs"),
        ("q.csv", b'id,question,answer\nq1,?,7\nq2,"?,7\n', "row 2: not valid CSV"),
        ("q.csv", b"id,question,answer\nq1,caf\xe9,7\n", "row 1: not valid CSV in UTF-8"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str, text: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(QuestionError, match=said):
        load(FileSource(path=tmp_path / name))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for ask in (load, content):
        with pytest.raises(QuestionError, match="no such file"):
            ask(FileSource(path=tmp_path / "none.parquet"))


def test_choices_that_are_not_a_list_are_refused(tmp_path: Path) -> None:
    for choices in ({"label": ["A", "B"], "text": ["cat", "crow"]}, "cat, crow"):
        path = _jsonl(tmp_path / "q.jsonl", [{**GOOD[2], "choices": choices}])
        with pytest.raises(QuestionError, match="row 1: column 'choices'"):
            load(FileSource(path=path))


def test_parquet_and_jsonl_give_the_same_questions(tmp_path: Path) -> None:
    def without_source(path: Path) -> list[Question]:
        return [Question(**{**vars(question), "source": ""}) for question in load(FileSource(path=path))]

    assert without_source(_parquet(tmp_path / "q.parquet", GOOD)) == without_source(_jsonl(tmp_path / "q.jsonl", GOOD))


def test_columns_can_be_mapped_and_types_given(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "q.jsonl", [{"key": 5, "prompt": "What is 3+4?", "gold": 7}])
    columns = Columns(id="key", question="prompt", answer="gold", answer_type=None, choices=None, rationale=None, task=None)
    (question,) = load(FileSource(path=path, columns=columns, answer_type="number"))
    assert (question.id, question.question, question.answer, question.answer_type) == ("5", "What is 3+4?", "7", "number")


def test_questions_are_streamed_row_by_row(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "q.jsonl", [*GOOD, {"id": "bad"}])
    stream = source_questions.load(FileSource(path=path))
    assert [next(stream).id for _ in GOOD] == ["q1", "q2", "q3"]
    with pytest.raises(QuestionError, match="row 4"):
        next(stream)


def test_a_limit_reads_the_first_rows_only(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "q.jsonl", [*GOOD, {"id": "bad"}])
    assert load(FileSource(path=path, limit=2)) == load(FileSource(path=path, limit=3))[:2]


@pytest.mark.parametrize("write", [_jsonl, _parquet])
def test_a_local_folder_loads_through_datasets(tmp_path: Path, write: Any) -> None:
    name = "train.jsonl" if write is _jsonl else "train.parquet"
    rows = [{"answer_type": "choice", "choices": [], **row} for row in GOOD]
    folder = write(tmp_path / name, rows).parent
    found = load(HubSource(folder=folder))
    assert [(question.id, question.text, question.answer) for question in found] == [
        (question.id, question.text, question.answer) for question in load(FileSource(path=folder / name))
    ]
    assert len(found) == 3


def test_a_local_folder_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"not parquet")
    for name in ("broken", "none"):
        with pytest.raises(QuestionError, match=str(tmp_path / name)):
            load(HubSource(folder=tmp_path / name))


def _moved(kind: str, tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[Source, Source]:
    """The same rows under two different paths."""
    if kind == "file":
        here, there = (_jsonl(tmp_path / place, rows) for place in ("here/train.jsonl", "there/moved.jsonl"))
        return FileSource(path=here), FileSource(path=there)
    here, there = (_jsonl(tmp_path / place / "train.jsonl", rows).parent for place in ("here", "there"))
    return HubSource(folder=here), HubSource(folder=there)


@pytest.mark.parametrize("kind", ["file", "hub"])
def test_the_content_digest_does_not_depend_on_the_path(tmp_path: Path, kind: str) -> None:
    here, there = _moved(kind, tmp_path, GOOD)
    assert content(here) == content(there)
    fewer, _ = _moved(kind, tmp_path / "fewer", GOOD[:2])
    assert content(here) != content(fewer)


def test_hidden_folders_do_not_count_as_content(tmp_path: Path) -> None:
    source = HubSource(folder=_jsonl(tmp_path / "data" / "train.jsonl", GOOD).parent)
    before = content(source)
    _jsonl(tmp_path / "data" / ".cache" / "huggingface" / "train.jsonl.metadata", [])
    assert content(source) == before
    _jsonl(tmp_path / "data" / "more" / "test.jsonl", GOOD)
    assert content(source) != before


@pytest.mark.parametrize("kind", ["file", "hub"])
def test_sources_of_equal_digest_give_equal_questions(tmp_path: Path, kind: str) -> None:
    columns = Columns(id=None, task=None, choices=None)
    here, there = (source.model_copy(update={"columns": columns}) for source in _moved(kind, tmp_path, GOOD[:2]))
    assert content(here) == content(there)
    assert load(here) == load(there)


def test_rows_without_an_id_column_are_numbered(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "q.jsonl", GOOD)
    ids = [question.id for question in load(FileSource(path=path, columns=Columns(id=None)))]
    assert [identity.rsplit("/", 1)[-1] for identity in ids] == ["1", "2", "3"]


def test_an_answer_can_be_extracted_with_a_pattern(tmp_path: Path) -> None:
    rows = [{"id": "q1", "question": "?", "answer": "3 and 4 make 1,007.\n#### 1,007"}]
    columns = Columns(answer_pattern="#### (.+)")
    (question,) = load(FileSource(path=_jsonl(tmp_path / "q.jsonl", rows), columns=columns, answer_type="number"))
    assert question.answer == "1007"
    with pytest.raises(QuestionError, match=r"row 1: column 'answer': .* does not match"):
        load(FileSource(path=tmp_path / "q.jsonl", columns=Columns(answer_pattern="=> (.+)"), answer_type="number"))


def test_miniature_questions_have_no_external_content() -> None:
    source = MiniatureSource(family="reverse", split="test", count=5)
    assert content(source) is None
    assert len({question.id for question in load(source)}) == 5
    assert load(source) == load(source)


def test_an_unknown_family_is_refused_with_the_known_names() -> None:
    with pytest.raises(QuestionError, match="unknown family 'dail'; use one of dial, "):
        load(MiniatureSource(family="dail", split="test", count=5))


def test_every_row_of_the_benchmarks_loads() -> None:
    files = [item for item in json.loads((BENCHMARKS / "MANIFEST.json").read_text())["files"] if item["kind"] == "examples"]
    assert {item["path"]: len(load(FileSource(path=BENCHMARKS / item["path"]))) for item in files} == {
        item["path"]: item["rows"] for item in files
    }
