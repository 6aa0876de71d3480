"""Imported rationales: read unchanged, refused with file, row and column, and clustered if unlabelled."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from pipeline.config.rationales import ImportedRationales
from pipeline.errors import QuestionError
from pipeline.miniature.styles import RING_STYLES, solution
from pipeline.questions.procedural import distinct
from pipeline.rationales.clustering import clusters
from pipeline.rationales.read_imported_rows import content, rationales

KNOWN = ("formal", "planning")
COLUMNS = {"question": "q", "perspective": "p"}
GOOD = {"q": "1+1?", "p": "formal", "text": "one and one make two\r\n\ttwo 🙂"}


def source(path: Path, columns: dict[str, Any] | None = None, **settings: Any) -> ImportedRationales:
    return ImportedRationales.model_validate({"path": path, "columns": columns or COLUMNS, **settings})


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows in the format of the file's suffix."""
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".csv":
            import csv

            with path.open("w", newline="") as lines:
                table = csv.DictWriter(lines, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["given.parquet", "given.jsonl", "given.csv", "folder"])
def test_every_file_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    if name == "folder":
        (tmp_path / name).mkdir()
        written(tmp_path / name / "train.parquet", [GOOD, GOOD])
    else:
        written(tmp_path / name, [GOOD, GOOD])
    rows = list(rationales(source(tmp_path / name), KNOWN))
    assert [(row.question, row.label, row.text) for row in rows] == [("1+1?", "formal", GOOD["text"])] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": ""}, "row 2: column 'text': empty; fill it or remove the row"),
        ({"text": " \r\n"}, "row 2: column 'text': empty"),
        ({"text": "a\0b"}, "row 2: column 'text': contains a NUL"),
        ({"text": "\ud800"}, "row 2: column 'text': is not valid Unicode"),
        ({"text": ["a", "b"]}, "row 2: column 'text': holds a list"),
        ({"q": None}, "row 2: column 'q': empty"),
        ({"p": "formel"}, "row 2: column 'p': unknown perspective 'formel'; use one of formal, planning"),
    ],
)
def test_an_invalid_row_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "given.jsonl", [GOOD, {**GOOD, **change}])
    with pytest.raises(QuestionError) as raised:
        list(rationales(source(path), KNOWN))
    assert str(raised.value).startswith(f"{path}: {said}")
    assert ";" in str(raised.value)


@pytest.mark.parametrize("column", ["question", "text", "answer", "perspective", "finished"])
def test_a_missing_column_is_named_with_the_existing_ones(tmp_path: Path, column: str) -> None:
    path = written(tmp_path / "given.jsonl", [GOOD])
    with pytest.raises(QuestionError, match=r"row 1: no column 'other' \(it has q, p, text\); map it under columns"):
        list(rationales(source(path, {**COLUMNS, column: "other"}), KNOWN))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"columns": {"text": "t", "perspective": "p"}}, "give either question"),
        ({"columns": {"question": "q", "question_id": "i", "perspective": "p"}}, "give either question"),
        ({"columns": {"question": "q"}}, "set columns.perspective to the column of labels"),
        ({"columns": {"question": "q"}, "unlabelled": "numbered"}, "the number of perspectives"),
        ({"columns": COLUMNS, "unlabelled": "numbered", "places": 2}, "apply only to rows without labels"),
        ({"columns": COLUMNS, "names": {"A b": "A b"}}, "should match pattern"),
    ],
)
def test_contradictory_settings_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ImportedRationales.model_validate({"path": tmp_path, **settings})


def test_labels_are_mapped_to_perspective_names(tmp_path: Path) -> None:
    path = written(tmp_path / "given.jsonl", [{**GOOD, "p": "Step by step"}, {**GOOD, "p": "Facts"}, {**GOOD, "p": "Steps"}])
    named = source(path, names={"Step by step": "steps", "Facts": "facts", "Steps": "steps"})
    assert named.perspectives() == ("steps", "facts")
    assert [row.label for row in rationales(named, ("steps", "facts"))] == ["steps", "facts", "steps"]
    with pytest.raises(QuestionError, match="unknown perspective 'Facts'; names has Step by step, Steps, or map it"):
        list(rationales(source(path, names={"Step by step": "steps", "Steps": "steps"}), ("steps",)))


def test_an_answer_column_is_appended_to_the_text(tmp_path: Path) -> None:
    path = written(tmp_path / "given.jsonl", [{**GOOD, "a": 2}, {**GOOD, "a": None}])
    texts = [row.text for row in rationales(source(path, {**COLUMNS, "answer": "a"}), KNOWN)]
    assert texts == [f"{GOOD['text']}\nThe answer is \\boxed{{2}}.", GOOD["text"]]


@pytest.mark.parametrize("name", ["given.parquet", "given.jsonl", "given.csv"])
@pytest.mark.parametrize(
    ("stated", "finished"),
    [("true", True), ("False", False), ("yes", True), ("0", False), ("stop", True), ("end_turn", True), ("length", False)],
)  # fmt: skip
def test_a_column_says_whether_a_text_is_finished(tmp_path: Path, name: str, stated: str, finished: bool) -> None:
    path = written(tmp_path / name, [{**GOOD, "f": stated, "a": "2"}])
    (row,) = rationales(source(path, {**COLUMNS, "finished": "f", "answer": "a"}), KNOWN)
    assert row.finished == finished
    assert row.text.startswith(GOOD["text"])
    assert row.text.endswith("The answer is \\boxed{2}.") == finished, "a text that was cut has not come to its answer"


def test_booleans_and_numbers_say_whether_a_text_is_finished(tmp_path: Path) -> None:
    columns = {**COLUMNS, "finished": "f"}
    for name, values in (("a.jsonl", [True, False, 1, 0]), ("b.parquet", [True, False]), ("c.parquet", [1, 0])):
        path = written(tmp_path / name, [{**GOOD, "f": value} for value in values])
        assert [row.finished for row in rationales(source(path, columns), KNOWN)] == [bool(value) for value in values]


@pytest.mark.parametrize(
    ("value", "said"),
    [("maybe", "'maybe' does not say whether the text ended; use true or false"), (None, "empty"), ("", "empty")],
)
def test_a_value_that_does_not_say_whether_a_text_is_finished_is_refused(tmp_path: Path, value: Any, said: str) -> None:
    path = written(tmp_path / "given.jsonl", [{**GOOD, "f": "stop"}, {**GOOD, "f": value}])
    with pytest.raises(QuestionError, match=f"row 2: column 'f': {said}"):
        list(rationales(source(path, {**COLUMNS, "finished": "f"}), KNOWN))


def test_the_content_digest_does_not_depend_on_the_path(tmp_path: Path) -> None:
    one, other = (written(tmp_path / name, [GOOD]) for name in ("a.jsonl", "b.jsonl"))
    assert content(source(one)) == content(source(other))
    written(other, [GOOD, GOOD])
    assert content(source(one)) != content(source(other))
    with pytest.raises(QuestionError, match=r"no such file or folder; correct sampling\.rationales\.path"):
        content(source(tmp_path / "nowhere.jsonl"))


def test_clusters_follow_styles_and_not_questions() -> None:
    """Miniature texts in four styles about 60 questions cluster by style and not by question."""
    styles, texts, questions, truth = list(RING_STYLES)[:4], [], [], []
    for number, problem in enumerate(distinct("dial", "train", 60, 0)):
        for k, style in enumerate(styles):
            texts.append(solution(problem, style, random.Random(number)))
            questions.append(number)
            truth.append(k)
    found = clusters(texts, questions, 4, 0)
    assert adjusted_rand_score(truth, found) > 0.9
    assert clusters(texts, questions, 4, 0) == found
    sizes = [found.count(label) for label in range(4)]
    assert sizes == sorted(sizes, reverse=True)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6), st.integers(1, 8))
def test_clustering_labels_every_text_or_is_refused(texts: list[str], count: int) -> None:
    try:
        found = clusters(texts, [0] * len(texts), count, 0)
    except QuestionError as error:
        assert "lower places, or set unlabelled to numbered" in str(error)
    else:
        assert len(found) == len(texts)
        assert set(found) <= set(range(count))
