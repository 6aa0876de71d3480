"""Streams the questions of a source, each validated before it is yielded; memory use does not depend on the source's size.

Only digests of the ids of earlier questions are kept. An invalid row is an error, never skipped, because a silently dropped row changes the
measurement. The error names file, row (counted from 1) and column.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import QuestionError
from pipeline.questions import procedural as families
from pipeline.questions.columns import RowReader, question_of
from pipeline.questions.data_sets import hub_rows
from pipeline.questions.named_benchmarks import NamedSource, Source
from pipeline.questions.question import Question
from pipeline.questions.rows import LocatedRow, file_rows, located, must_exist
from pipeline.questions.sources import Columns, FileSource, HubSource, MiniatureSource
from pipeline.text_digests import digest

RowSource = FileSource | HubSource | NamedSource


class _Part(NamedTuple):
    """Rows with one column mapping. Generated ids start with `path`; ids from the source are prefixed with `name`."""

    where: str
    rows: Iterator[LocatedRow]
    columns: Columns
    answer_type: str | None
    path: tuple[str, ...]
    name: str
    split: str
    subset: str


def load(source: Source) -> Iterator[Question]:
    """The questions of a source in order, each validated before it is yielded.

    A question depends on the content of its source, not on its location: rows without an id are numbered after a digest of the file or
    folder, the hub name, or the benchmark's name.

    Raises:
        QuestionError: file, row and column of the first invalid value.
    """
    return _miniature(source) if isinstance(source, MiniatureSource) else _unique(source)


def selected(source: Source, long: Counter[str], name: str) -> Iterator[Question]:
    """The questions of a source that pass its length limit and sampling; `long[name]` counts those that are too long."""
    if isinstance(source, MiniatureSource):
        return load(source)
    questions = _short(load(source), source.max_characters, long, name)
    return questions if source.sample is None else _sampled(questions, source.sample)


def _short(questions: Iterable[Question], most: int | None, long: Counter[str], name: str) -> Iterator[Question]:
    for question in questions:
        if most is None or len(question.text) <= most:
            yield question
        else:
            long[name] += 1


def _sampled(questions: Iterable[Question], count: int) -> Iterator[Question]:
    """The `count` questions with the smallest id digests, in source order."""
    drawn = heapq.nsmallest(count, enumerate(questions), key=lambda item: digest(item[1].id))
    yield from (question for _, question in sorted(drawn, key=lambda item: item[0]))


def content(source: Source) -> str | None:
    """Digest of a source's external content; `None` if the configuration determines it completely.

    Raises:
        QuestionError: no such file or folder.
    """
    match source:
        case FileSource():
            must_exist(source.path)
            return _file_digest(source.path).hex()
        case HubSource() | NamedSource() if source.folder is not None:
            return folder_digest(source.folder)
    return None


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def folder_digest(folder: Path) -> str:
    """Digest of all files except those in hidden folders, where tools store metadata such as download times."""
    if not folder.is_dir():
        raise QuestionError(f"{folder}: no such folder; correct the source's folder")
    whole = hashlib.sha256()
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        name = path.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts[:-1]):
            whole.update(name.as_posix().encode() + b"\0")
            whole.update(_file_digest(path))
    return whole.hexdigest()


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


def _parts(source: RowSource) -> Iterator[_Part]:
    match source:
        case FileSource(path=path, columns=columns, answer_type=kind):
            digest_12 = str(content(source))[:12]
            yield _Part(
                str(path), islice(located(str(path), file_rows(path)), source.limit), columns, kind, (digest_12,), "", "", ""
            )
        case HubSource(columns=columns, answer_type=kind, split=split):
            origin, subset = str(content(source))[:12] if source.folder else source.location, source.subset or ""
            rows = islice(hub_rows(source), source.limit)
            yield _Part(source.location, rows, columns, kind, (origin, subset), "", split, subset)
        case NamedSource(name=name):
            for task, part in source.readable().items():
                several = len(source.parts) > 1
                where, start = (f"{part.location}, {task}", (name, task)) if several else (part.location, (name,))
                yield _Part(where, hub_rows(part), part.columns, part.answer_type, start, name, source.split, task)


def _checked(source: RowSource) -> Iterator[tuple[LocatedRow, Question]]:
    """Questions before the check for duplicate ids, each with its row."""
    for part in _parts(source):
        mapped, number = _mapped(part.columns), 0
        for number, found in enumerate(part.rows, 1):
            full = {"source": part.path[0], "split": part.split, "subset": part.subset, **found.row}
            numbered = "/".join(filter(None, (*part.path, part.split, str(number))))
            place = RowReader(found.where, part.columns, full)
            mapped = {column for column in mapped if column not in full and place.value(column) is None}
            yield found, _question_of(place, part, numbered)
        if not number:
            raise QuestionError(f"{part.where}: no rows; give a file with questions")
        if mapped:
            remedy = _other_layout(part.name) if part.name else "correct it under columns, or set it to null"
            raise QuestionError(f"{part.where}: no row has a column {min(mapped)!r}; {remedy}")


def _other_layout(name: str) -> str:
    """The remedy for rows that are not those of a benchmark, whose columns nobody can set."""
    return (
        f"the columns are those of {name} at its pinned revision: give a copy of that revision as folder, or read these files with "
        "kind: file or kind: hub, and columns"
    )


def _question_of(place: RowReader, part: _Part, numbered: str) -> Question:
    try:
        return question_of(place, part.answer_type, numbered, part.name)
    except QuestionError as error:
        if not part.name:
            raise
        raise QuestionError(f"{str(error).rpartition('; ')[0] or error}; {_other_layout(part.name)}") from error


def _mapped(columns: Columns) -> set[str]:
    """Columns that the configuration sets explicitly; columns with default names are optional."""
    fields = ((name, getattr(columns, name)) for name in ("choices", "labels", "rationale", "task", "answer_type"))
    named = [value for name, value in fields if value is not None and value != Columns.model_fields[name].default]
    return {column for value in named for column in ((value,) if isinstance(value, str) else value)}


def _unique(source: RowSource) -> Iterator[Question]:
    seen: set[int] = set()
    for row, question in _checked(source):
        identity = digest(question.id)
        if identity in seen:
            # Rows are not kept in memory, so find the first row with this id by reading the source again.
            first = next(other for other, found in _checked(source) if found.id == question.id)
            before = f"row {first.number}" if first.path == row.path else first.where
            raise QuestionError(f"{row.where}: column 'id': id {question.id!r} is already used in {before}; make ids unique")
        seen.add(identity)
        yield question
