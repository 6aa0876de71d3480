"""Questions and where they come from: the miniature world, a Parquet or JSONL file, a data set through `datasets`.

A source is read as a stream of checked `Question`s, so that its size does not matter; of those that have passed only digests of
their ids are kept. A bad row is refused, never skipped, with file, row (from 1) and column, because a silently dropped row
changes what was measured.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import AnswerType, FileSource, HubSource, MiniatureSource, Source
from pipeline.digests import digest
from pipeline.errors import QuestionError
from pipeline.grading import LETTERS, Grade, canonical, grade
from pipeline.miniature import families

SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("answer_type", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("rationale", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("task", pa.string()),
    ]
)


@dataclass(frozen=True)
class Question:
    """One problem with a gold answer in canonical form, as in `SCHEMA`."""

    id: str
    question: str
    answer: str
    answer_type: str
    choices: tuple[str, ...] = ()
    rationale: str = ""
    source: str = ""
    split: str = ""
    task: str = ""

    @property
    def text(self) -> str:
        """What a model is shown: the question, and lettered choices where there are any."""
        if not self.choices:
            return self.question
        options = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False)]
        return "\n".join([self.question, *options])

    @property
    def wording(self) -> tuple[str, ...]:
        """The question and its choices, normalised, whatever the order of the choices: equal for the same question."""
        return (normalised(self.question), *sorted(normalised(choice) for choice in self.choices))

    def grade(self, text: str, finished: bool) -> Grade:
        """Grade one completion; see `pipeline/grading.py`."""
        return grade(text, finished, self.answer, self.answer_type, self.choices)


def normalised(text: str) -> str:
    """Lower case, compatibility characters folded, runs of anything but letters, digits and operators made one space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[^\w+\-*/=<>^%]+", " ", folded).strip()


def to_table(questions: Iterable[Question]) -> pa.Table:
    """Questions as a table of `SCHEMA`."""
    rows = [{**asdict(question), "choices": list(question.choices)} for question in questions]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def from_table(table: pa.Table | pa.RecordBatch) -> list[Question]:
    """The inverse of `to_table`."""
    names = SCHEMA.names
    return [Question(**{**row, "choices": tuple(row["choices"])}) for row in table.select(names).to_pylist()]


def load(source: Source) -> Iterator[Question]:
    """The questions of a source in order, each checked before it is given.

    What a question is depends on the content of its source, not on where that lies: rows without an id are numbered behind
    a digest of the file or folder, or the hub name.

    Raises:
        QuestionError: file, row and column of the first thing that is wrong.
    """
    match source:
        case MiniatureSource():
            yield from _miniature(source)
        case FileSource():
            yield from _unique(source, str(source.path), "")
        case HubSource():
            yield from _unique(source, source.location, source.split)


def content(source: Source) -> str | None:
    """Digest of what a source reads from outside; `None` where its configuration says it all."""
    match source:
        case FileSource():
            _must_exist(source.path)
            return _file_digest(source.path).hex()
        case HubSource() if source.folder is not None:
            whole = hashlib.sha256()
            for path in sorted(item for item in source.folder.rglob("*") if item.is_file()):
                whole.update(path.relative_to(source.folder).as_posix().encode() + b"\0")
                whole.update(_file_digest(path))
            return whole.hexdigest()
    return None


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _miniature(source: MiniatureSource) -> Iterator[Question]:
    if source.family not in (*families.ID_FAMILIES, *families.OOD_FAMILIES):
        known = ", ".join((*families.ID_FAMILIES, *families.OOD_FAMILIES))
        raise QuestionError(f"questions: unknown family {source.family!r}; use one of {known}")
    for problem in families.distinct(source.family, source.split, source.count, source.seed):
        answer = families.solve(problem)
        yield Question(
            id=families.question_id(problem),
            question=families.ask(problem),
            answer=answer,
            answer_type="number" if answer.isdigit() else "text",
            source="miniature",
            split=source.split,
            task=problem.family,
        )


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise QuestionError(f"{path}: no such file; correct the source's path")


def _file_rows(path: Path, columns: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
    _must_exist(path)
    match path.suffix:
        case ".parquet":
            return _parquet_rows(path, columns)
        case ".jsonl":
            return _jsonl_rows(path)
    raise QuestionError(f"{path}: expected a .parquet or .jsonl file; convert it")


def _parquet_rows(path: Path, columns: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
    try:
        # Buffered, or the columns of a whole row group are read at once, and many writers make only one.
        file = pq.ParquetFile(path, buffer_size=1 << 20)
    except pa.ArrowException as error:
        raise QuestionError(f"{path}: not a readable Parquet file; write it again") from error
    with file:
        for role in ("id", "question", "answer"):
            if columns[role] is not None and columns[role] not in file.schema_arrow.names:
                has = ", ".join(file.schema_arrow.names)
                raise QuestionError(f"{path}: no column {columns[role]!r} for {role} (it has {has}); map it under columns")
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise QuestionError(f"{path}: row {number}: not JSON in UTF-8; one object a line is expected") from error
            if not isinstance(row, dict):
                raise QuestionError(f"{path}: row {number}: expected a JSON object; one object a line is expected")
            yield row


def _hub_rows(source: HubSource) -> Iterator[dict[str, Any]]:
    import datasets  # slow to import, and only hub sources need it

    if source.folder is not None and not source.folder.is_dir():
        raise QuestionError(f"{source.folder}: no such folder; correct the source's folder")
    try:
        table = datasets.load_dataset(source.location, source.subset, split=source.split, revision=source.revision)
    except (OSError, ValueError, ConnectionError) as error:
        reason = str(error).splitlines()[0]
        raise QuestionError(f"{source.location}: cannot be loaded ({reason}); check name, subset, split, revision") from error
    yield from table


def _checked(source: FileSource | HubSource, where: str, split: str) -> Iterator[Question]:
    """The questions of the first rows, as many as wanted, before their ids are compared."""
    whole = content(source)
    origin = whole[:12] if whole is not None else where
    rows = _file_rows(source.path, source.columns.model_dump()) if isinstance(source, FileSource) else _hub_rows(source)
    for number, row in enumerate(islice(rows, source.limit), 1):
        numbered = "/".join(filter(None, (origin, split, str(number))))
        yield _question({"source": origin, "split": split, **row}, source, numbered, f"{where}: row {number}")


def _unique(source: FileSource | HubSource, where: str, split: str) -> Iterator[Question]:
    seen: set[int] = set()
    for number, question in enumerate(_checked(source, where, split), 1):
        seen.add(digest(question.id))
        if len(seen) < number:
            # Rows are not remembered, so the one that had this id first is looked for again.
            first = next(n for n, other in enumerate(_checked(source, where, split), 1) if other.id == question.id)
            raise QuestionError(
                f"{where}: row {number}: column {source.columns.id!r}: id {question.id!r} is already in row "
                f"{first}; ids must be unique"
            )
        yield question
    if not seen:
        raise QuestionError(f"{where}: no rows; give a file with questions")


def _question(row: dict[str, Any], source: FileSource | HubSource, numbered: str, where: str) -> Question:
    """One checked question; its answer is stored in canonical form, so that equal answers are equal everywhere."""
    columns = source.columns

    def text(column: str | None, required: bool) -> str:
        value = row.get(column) if column is not None else None
        if required and (value is None or not str(value).strip()):
            raise QuestionError(f"{where}: column {column!r}: empty; fill it or remove the row")
        return "" if value is None else str(value)

    choices = row.get(columns.choices) if columns.choices is not None else None
    if not isinstance(choices, list | None) or not all(isinstance(choice, str) for choice in choices or ()):
        raise QuestionError(
            f"{where}: column {columns.choices!r}: expected a list of texts; convert it, or set columns.choices to null"
        )
    answer_type = source.answer_type or text(columns.answer_type, False) or ("choice" if choices else "text")
    if answer_type not in get_args(AnswerType):
        known = ", ".join(get_args(AnswerType))
        raise QuestionError(
            f"{where}: column {columns.answer_type!r}: {answer_type!r} is not an answer type; use one of {known}"
        )
    stated = text(columns.answer, True)
    if columns.answer_pattern is not None:
        found = re.search(columns.answer_pattern, stated)
        if found is None or found[1] is None:
            raise QuestionError(
                f"{where}: column {columns.answer!r}: {columns.answer_pattern!r} is not in it; correct the pattern"
            )
        stated = found[1]
    wording, options = text(columns.question, True), tuple(str(choice) for choice in choices or ())
    answer = canonical(stated, answer_type, options)
    if answer is None:
        raise QuestionError(
            f"{where}: column {columns.answer!r}: {stated!r} is not a {answer_type}; correct the answer or its type"
        )
    return Question(
        id=text(columns.id, True) if columns.id is not None else numbered,
        question=wording,
        answer=answer,
        answer_type=answer_type,
        choices=options,
        rationale=text(columns.rationale, False),
        source=str(row["source"] or ""),
        split=str(row["split"] or ""),
        task=text(columns.task, False),
    )
