"""Reads rows of files unchanged, and refuses unreadable ones."""

from __future__ import annotations

import csv
import gzip
import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import QuestionError
from pipeline.questions.rows import BATCH_ROWS, file_rows

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


TEXTS = ["0042", "1.50", "001", "2019-03-01", "12:30", "None", "NA", "True", "1,000", "9007199254740993", " x ", ""]


@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.jsonl", "q.ndjson", "q.json", "q.csv.gz", "q.jsonl.gz"])
def test_no_value_of_an_untyped_file_is_taken_for_another_type(tmp_path: Path, name: str) -> None:
    rows = [{"id": str(number), "answer": text} for number, text in enumerate(TEXTS)]
    ending = name.removesuffix(".gz").removeprefix("q")
    if ending in (".csv", ".tsv"):
        content = "".join("\t".join(row) + "\n" for row in (list(rows[0]), *(list(row.values()) for row in rows)))
        content = content if ending == ".tsv" else content.replace("1,000", '"1,000"').replace("\t", ",")
    else:
        content = json.dumps(rows) if ending == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    packed = gzip.compress(content.encode()) if name.endswith(".gz") else content.encode()
    (tmp_path / name).write_bytes(packed)
    assert list(file_rows(tmp_path / name)) == rows


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *((same, same) for same in ("9007199254740993", "12345678901234567890", "1.50", "3431580.0", "1e22", "-0", "3.14159265358979312")),
        ("9" * 5000, "9" * 5000),
        ("0.30000000000000004", "0.3"),
        ("[1.10, {\"a\": 2.20}]", ["1.10", {"a": "2.20"}]),
        ("true", True),
        ("null", None),
    ],
)  # fmt: skip
def test_a_json_number_keeps_its_spelling(tmp_path: Path, written: str, read: object) -> None:
    (tmp_path / "q.jsonl").write_text(f'{{"answer": {written}}}\n')
    (tmp_path / "q.json").write_text(f'[{{"answer": {written}}}]')
    for name in ("q.jsonl", "q.json"):
        assert list(file_rows(tmp_path / name)) == [{"answer": read}]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_a_narrow_fraction_has_its_shortest_decimal(tmp_path: Path, values: list[float]) -> None:
    plain = [float(str(np.float32(value))) for value in values]
    columns = {
        "flat": (pa.float32(), values, plain),
        "list": (pa.list_(pa.float32()), [values] * len(values), [plain] * len(values)),
        "record": (pa.struct([("a", pa.float32())]), [{"a": value} for value in values], [{"a": value} for value in plain]),
        "coded": (pa.dictionary(pa.int32(), pa.float32()), values, plain),
        "wide": (pa.float64(), values, values),
    }
    pq.write_table(
        pa.table({name: pa.array(some, kind) for name, (kind, some, _) in columns.items()}),
        tmp_path / "q.parquet",
    )
    for name, (_, _, expected) in columns.items():
        assert [row[name] for row in file_rows(tmp_path / "q.parquet")] == expected


def test_narrow_fractions_of_16_bits_and_gaps_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([np.float16(0.1), None], pa.float16())}), tmp_path / "q.parquet")
    assert list(file_rows(tmp_path / "q.parquet")) == [{"a": 0.1}, {"a": None}]


def test_a_long_csv_cell_is_read(tmp_path: Path) -> None:
    text = "Let me think about this again. " * 5000
    assert list(file_rows(write_rows(tmp_path / "q.csv", [{"text": text}]))) == [{"text": text}]


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv", "q.json"])
def test_blank_lines_are_skipped_and_not_counted(tmp_path: Path, name: str) -> None:
    lines = (
        ["a,b", "1,2", "", "3,4", "", ""] if name == "q.csv" else ['{"a": "1", "b": "2"}', "", '{"a": "3", "b": "4"}', " ", ""]
    )
    (tmp_path / name).write_text("\n".join(lines))
    assert list(file_rows(tmp_path / name)) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    (tmp_path / name).write_text("\n".join([*lines, "x"]))
    with pytest.raises(QuestionError, match=rf"{name}: row 3: (not valid JSON|number of fields)"):
        list(file_rows(tmp_path / name))


def test_rows_inside_a_json_object_are_found_by_their_field(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text('{"about": "sums", "examples": [{"a": 1.50}, {"a": 2}]}')
    assert list(file_rows(tmp_path / "q.json", field="examples")) == [{"a": "1.50"}, {"a": "2"}]
    for field in ("rows", "about"):
        with pytest.raises(QuestionError, match=f"q.json: has no list '{field}'"):
            list(file_rows(tmp_path / "q.json", field=field))
    (tmp_path / "list.json").write_text('[{"a": 1}, 2]')
    with pytest.raises(QuestionError, match="row 2: expected a JSON object"):
        list(file_rows(tmp_path / "list.json"))


@pytest.mark.parametrize("name", ["q.csv.gz", "q.jsonl.gz", "q.json.gz"])
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    with pytest.raises(QuestionError, match=rf"{name}.*; write the file again"):
        list(file_rows(tmp_path / name))


def test_two_csv_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("id,answer,answer\n1,2,3\n")
    with pytest.raises(QuestionError, match=r"q\.csv: two columns are called 'answer'; rename one of them"):
        list(file_rows(tmp_path / "q.csv"))


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "q.csv", "q.json", "q.parquet"])
def test_a_row_larger_than_the_limit_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless line would otherwise be read into memory until there is none."""
    monkeypatch.setattr("pipeline.questions.rows.ROW_BYTES", 1000)
    monkeypatch.setattr("pipeline.questions.rows.JSON_BYTES", 1000)
    path, rows = tmp_path / name, [{"question": "short"}, {"question": "x" * 2000}]
    if name == "q.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name == "q.csv":
        path.write_text("question\nshort\n" + "x" * 2000)
    else:
        text = json.dumps(rows) if name == "q.json" else "\n".join(map(json.dumps, rows))
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    with pytest.raises(
        QuestionError, match=rf"{name}: ((row 2|line 3): )?larger than 0 MiB; (shorten its texts|write one object)"
    ):
        list(file_rows(path))


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_small_parquet_file_does_not_become_large_in_memory(tmp_path: Path, dictionary: bool) -> None:
    path, text = tmp_path / "q.parquet", "x" * 500_000
    pq.write_table(pa.table({"question": [text] * 300}), path, compression="zstd", use_dictionary=dictionary)
    assert path.stat().st_size < 50_000
    if not dictionary:
        with pytest.raises(QuestionError, match="column question unpacks to more than 1000 times its size"):
            next(file_rows(path))
        return
    tracemalloc.start()
    assert all(row["question"] == text for row in file_rows(path))
    assert tracemalloc.get_traced_memory()[1] < 3 * BATCH_ROWS * len(text)
    tracemalloc.stop()


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_json_that_is_nested_deep_is_one_line(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"deep.{ending}"
    path.write_text('{"answer": ' + "[" * 50_000 + "]" * 50_000 + "}")
    with pytest.raises(QuestionError, match=r"row 1: not valid JSON in UTF-8; write one object per line$"):
        list(file_rows(path))


def test_a_table_of_many_columns_is_read_in_seconds(tmp_path: Path) -> None:
    names = [f"column{number}" for number in range(50_000)]
    path = tmp_path / "wide.csv"
    path.write_text(f"{','.join(names)}\n{','.join(names)}\n")
    began = time.monotonic()
    assert list(file_rows(path)) == [dict(zip(names, names, strict=True))]
    assert time.monotonic() - began < 5
