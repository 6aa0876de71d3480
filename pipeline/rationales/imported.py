"""Rationales that somebody has already: as configuration, and row by row from a Parquet, JSONL or CSV file or a folder of such files.

A row is one rationale of one question, which it names by its id or by its wording. It may say in which perspective it is; `names` turns
a source's own labels into perspectives, which need no instruction then, because nobody is asked. Where rows say nothing of the kind,
a question's rationales are numbered, `given-1`, `given-2`, or sorted into clusters (`pipeline/rationales/clustering.py`). Texts stay as they are; a
row that cannot be a rationale is refused, as one of questions is (`pipeline/questions/columns.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.config.rationales import ImportedRationales
from pipeline.errors import QuestionError
from pipeline.grading.grade import conclusion
from pipeline.questions.columns import Place
from pipeline.questions.load import folder_digest
from pipeline.questions.question import normalised
from pipeline.questions.rows import Row, file_rows, hub_rows
from pipeline.questions.sources import Columns, HubSource

_NO_COLUMNS: Final = Columns()


class Given(NamedTuple):
    """One row: whose rationale, as `key_of_id` or `key_of_wording` say and in words, its label, its text."""

    key: str
    question: str
    label: str | None
    text: str


def key_of_id(question_id: str) -> str:
    """By what a question's rationales are found where rows have its id."""
    return question_id


def key_of_wording(wording: str) -> str:
    """The same where they have its wording."""
    return normalised(wording)


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise QuestionError(f"{path}: no such file or folder; correct sampling.rationales.path")


def _rows(source: ImportedRationales) -> Iterator[Row]:
    if source.path.is_dir():
        return hub_rows(HubSource(folder=source.path, subset=source.subset, split=source.split or "train"))
    return file_rows(source.path)


def content(source: ImportedRationales) -> str:
    """Digest of the file, or of all files of the folder.

    Raises:
        QuestionError: there is none.
    """
    _must_exist(source.path)
    if source.path.is_dir():
        return folder_digest(source.path)
    with source.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _label(place: Place, source: ImportedRationales, known: tuple[str, ...]) -> str | None:
    column = source.columns.perspective
    if column is None:
        return None
    stated = place.text(column, required=True)
    label = stated if source.names is None else source.names.get(stated)
    if label not in known:
        remedy = f"use one of {', '.join(known)}" if source.names is None else f"names has {', '.join(source.names)}"
        raise place.error(column, f"unknown perspective {stated!r}; {remedy}, or name it in sampling.rationales.names")
    return label


def rationales(source: ImportedRationales, known: tuple[str, ...]) -> Iterator[Given]:
    """Every row in order, checked; `known` are the run's perspectives.

    Raises:
        QuestionError: file, row and column of the first thing that is wrong.
    """
    columns, number = source.columns, 0
    for number, row in enumerate(_rows(source), 1):
        place = Place(f"{source.path}: row {number}", _NO_COLUMNS, row)
        whose = place.text(columns.question or columns.question_id, required=True)
        text = place.text(columns.text, required=True)
        place.value(columns.answer, required=columns.answer is not None)
        stated = place.text(columns.answer).strip()
        yield Given(
            key_of_id(whose) if columns.question is None else key_of_wording(whose),
            whose,
            _label(place, source, known),
            f"{text}\n{conclusion(stated)}" if stated else text,
        )
    if not number:
        raise QuestionError(f"{source.path}: no rows; give a file with rationales")


def check(source: ImportedRationales, known: tuple[str, ...]) -> None:
    """Refuse what the first row shows to be wrong: no such file, no such column."""
    _must_exist(source.path)
    next(rationales(source, known))
