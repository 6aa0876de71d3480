"""Imports existing rationales: their configuration, and the rows of a Parquet, JSON or CSV file or of a folder of such files.

A row is one rationale of one question, identified by the question's id or wording. It may carry a perspective label. `names` maps the
source's labels to perspectives; these need no instruction, because no teacher is prompted. Without labels, a question's rationales are
numbered (`given-1`, `given-2`) or clustered (`pipeline/rationales/clustering.py`). Texts are not changed, except that marks at their end
which ended the writer's turn are removed (`</s>`, `<|im_end|>`). An invalid row is an error, as for questions
(`pipeline/questions/columns.py`); so is a row with such a mark inside, because what follows it is no part of the rationale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.config.rationales import ImportedRationales
from pipeline.errors import QuestionError
from pipeline.generation.servers.reply import ended_by_itself
from pipeline.grading.grade import conclusion
from pipeline.grading.wording.thoughts import with_think_marks
from pipeline.grading.wording.turns import special_token, without_end_marks
from pipeline.questions.columns import RowReader
from pipeline.questions.data_sets import hub_rows
from pipeline.questions.load import folder_digest
from pipeline.questions.rows import LocatedRow, file_rows, located
from pipeline.questions.sources import Columns, HubSource
from pipeline.questions.wording import normalised

_NO_COLUMNS: Final = Columns()
_TRUTH: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class ImportedRationale(NamedTuple):
    """One row: the key of its question (`key_of_id` or `key_of_wording`), the stated question, its label, its text, whether it ended."""

    key: str
    question: str
    label: str | None
    text: str
    finished: bool


def key_of_id(question_id: str) -> str:
    """Question key for rows that have question ids."""
    return question_id


def key_of_wording(wording: str) -> str:
    """Question key for rows that have question wordings."""
    return normalised(wording)


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise QuestionError(f"{path}: no such file or folder; correct sampling.rationales.path")


def _rows(source: ImportedRationales) -> Iterator[LocatedRow]:
    if source.path.is_dir():
        return hub_rows(HubSource(folder=source.path, subset=source.subset, split=source.split or "train"))
    return located(str(source.path), file_rows(source.path))


def content(source: ImportedRationales) -> str:
    """Digest of the file, or of all files of the folder.

    Raises:
        QuestionError: the path does not exist.
    """
    _must_exist(source.path)
    if source.path.is_dir():
        return folder_digest(source.path)
    with source.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _label(place: RowReader, source: ImportedRationales, known: tuple[str, ...]) -> str | None:
    column = source.columns.perspective
    if column is None:
        return None
    stated = place.text(column, required=True)
    label = stated if source.names is None else source.names.get(stated)
    if label not in known:
        remedy = f"use one of {', '.join(known)}" if source.names is None else f"names has {', '.join(source.names)}"
        raise place.error(column, f"unknown perspective {stated!r}; {remedy}, or map it in sampling.rationales.names")
    return label


def _finished(place: RowReader, column: str | None) -> bool:
    if column is None:
        return True
    stated = place.text(column, required=True).strip()
    found = _TRUTH.get(stated.casefold(), ended_by_itself(stated))
    if found is None:
        raise place.error(column, f"{stated[:40]!r} does not say whether the text ended; use true or false, or stop or length")
    return found


def rationales(source: ImportedRationales, known: tuple[str, ...]) -> Iterator[ImportedRationale]:
    """Yields every row in order, validated; `known` are the run's perspectives.

    Raises:
        QuestionError: file, row and column of the first invalid value.
    """
    columns, empty = source.columns, True
    for found in _rows(source):
        empty = False
        place = RowReader(found.where, _NO_COLUMNS, found.row)
        whose = place.text(columns.question or columns.question_id, required=True)
        text = without_end_marks(with_think_marks(place.text(columns.text, required=True)))
        if mark := special_token(text):
            raise place.error(columns.text, f"has the mark {mark!r} inside; cut the text there, or remove the mark")
        place.value(columns.answer, required=columns.answer is not None)
        finished = _finished(place, columns.finished)
        stated = place.text(columns.answer).strip() if finished else ""  # a text that was cut has not come to its answer
        yield ImportedRationale(
            key_of_id(whose) if columns.question is None else key_of_wording(whose),
            whose,
            _label(place, source, known),
            f"{text}\n{conclusion(stated)}" if stated else text,
            finished,
        )
    if empty:
        raise QuestionError(f"{source.path}: no rows; give a file with rationales")


def check(source: ImportedRationales, known: tuple[str, ...]) -> None:
    """Validates the path and the first row: rejects a missing file or column."""
    _must_exist(source.path)
    next(rationales(source, known))
