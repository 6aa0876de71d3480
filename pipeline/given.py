"""Imports existing rationales: their configuration, and the rows of a Parquet, JSONL or CSV file or of a folder of such files.

A row is one rationale of one question, identified by the question's id or wording. It may carry a perspective label. `names` maps the
source's labels to perspectives; these need no instruction, because no teacher is prompted. Without labels, a question's rationales are
numbered (`given-1`, `given-2`) or clustered (`pipeline/clusters.py`). Texts are not changed. An invalid row is an error, as for questions
(`pipeline/questions/columns.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import StringConstraints, model_validator

from pipeline.errors import QuestionError
from pipeline.fields import FilePath, Frozen, identity, runtime
from pipeline.grading import conclusion
from pipeline.questions import normalised
from pipeline.questions.columns import Place
from pipeline.questions.load import folder_digest
from pipeline.questions.rows import Row, file_rows, hub_rows
from pipeline.questions.sources import Columns, HubSource

_NO_COLUMNS: Final = Columns()
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]


class RationaleColumns(Frozen):
    """Column mapping; `a.b` is field b inside column a. `question` or `question_id` identifies the rationale's question.

    `answer` is for texts that end before their answer: it is appended as the answer sentence and graded.
    """

    question: str | None = identity(None)
    question_id: str | None = identity(None)
    text: str = identity("text")
    answer: str | None = identity(None)
    perspective: str | None = identity(None)

    @model_validator(mode="after")
    def _one_way_to_match(self) -> RationaleColumns:
        if (self.question is None) == (self.question_id is None):
            raise ValueError(
                "give either question, the column with the question's wording, or question_id, the column with its id"
            )
        return self


class GivenRationales(Frozen):
    """Location, column mapping and perspectives of imported rationales.

    The perspectives are the run's own, those of `names`, or `places` unlabelled ones.
    """

    path: FilePath = runtime()
    subset: str | None = identity(None)
    split: str | None = identity(None)
    """For a folder; default `train`."""
    columns: RationaleColumns = identity()
    names: dict[str, Name] | None = identity(None, min_length=1)
    unlabelled: Literal["numbered", "clustered"] | None = identity(None)
    places: int | None = identity(None, ge=1)
    """Number of perspectives for unlabelled rationales."""

    @model_validator(mode="after")
    def _labelled_or_not(self) -> GivenRationales:
        if self.columns.perspective is None and (self.unlabelled is None or self.places is None or self.names is not None):
            raise ValueError(
                "set columns.perspective to the column of labels, or set unlabelled (numbered, clustered) and places, the number of "
                "perspectives"
            )
        if self.columns.perspective is not None and (self.unlabelled is not None or self.places is not None):
            raise ValueError("unlabelled and places apply only to rows without labels; remove them or columns.perspective")
        return self

    def perspectives(self) -> tuple[str, ...] | None:
        """Perspective names; None if they are the run's own."""
        if self.columns.perspective is not None:
            return None if self.names is None else tuple(dict.fromkeys(self.names.values()))
        word = "given" if self.unlabelled == "numbered" else "cluster"
        return tuple(f"{word}-{number}" for number in range(1, (self.places or 0) + 1))


class Given(NamedTuple):
    """One row: the key of its question (`key_of_id` or `key_of_wording`), the stated question, its label and its text."""

    key: str
    question: str
    label: str | None
    text: str


def key_of_id(question_id: str) -> str:
    """Question key for rows that have question ids."""
    return question_id


def key_of_wording(wording: str) -> str:
    """Question key for rows that have question wordings."""
    return normalised(wording)


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise QuestionError(f"{path}: no such file or folder; correct sampling.rationales.path")


def _rows(source: GivenRationales) -> Iterator[Row]:
    if source.path.is_dir():
        return hub_rows(HubSource(folder=source.path, subset=source.subset, split=source.split or "train"))
    return file_rows(source.path)


def content(source: GivenRationales) -> str:
    """Digest of the file, or of all files of the folder.

    Raises:
        QuestionError: the path does not exist.
    """
    _must_exist(source.path)
    if source.path.is_dir():
        return folder_digest(source.path)
    with source.path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _label(place: Place, source: GivenRationales, known: tuple[str, ...]) -> str | None:
    column = source.columns.perspective
    if column is None:
        return None
    stated = place.text(column, required=True)
    label = stated if source.names is None else source.names.get(stated)
    if label not in known:
        remedy = f"use one of {', '.join(known)}" if source.names is None else f"names has {', '.join(source.names)}"
        raise place.error(column, f"unknown perspective {stated!r}; {remedy}, or map it in sampling.rationales.names")
    return label


def rationales(source: GivenRationales, known: tuple[str, ...]) -> Iterator[Given]:
    """Yields every row in order, validated; `known` are the run's perspectives.

    Raises:
        QuestionError: file, row and column of the first invalid value.
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


def check(source: GivenRationales, known: tuple[str, ...]) -> None:
    """Validates the path and the first row: rejects a missing file or column."""
    _must_exist(source.path)
    next(rationales(source, known))
