"""Looks up prompt, answer, text and difficulty of a question by id, for the synthesis stage.

Samples may come in another order than questions, so the two cannot be read side by side, and millions of prompts do not fit into memory.
They are stored in an SQLite file in the draft's scratch folder, written atomically. Indices are built after all rows are inserted, by
sorting; inserting into an index in the random order of ids would touch the whole file all the time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from storage.atomic import replace_file
from storage.errors import ArtifactError


class IndexedQuestion(NamedTuple):
    """The fields of a question that synthesis needs."""

    prompt: str
    answer: str
    text: str
    pass_rate: float | None
    """None where no attempts were needed."""


def write_index(path: Path, questions: Iterable[tuple[str, str, str, str]], rates: Iterable[tuple[str, float]] | None) -> None:
    """Write questions as (id, prompt, answer, text) and difficulties as (id, pass rate), each in any order; None if nothing was attempted.

    Raises:
        ArtifactError: the numbers of questions and difficulties differ.
    """

    def write(temporary: Path) -> None:
        with closing(sqlite3.connect(temporary)) as file:
            # An unfinished file is discarded, so no rollback journal is needed.
            file.execute("PRAGMA journal_mode = OFF")
            file.execute("CREATE TABLE question (id TEXT, prompt TEXT, answer TEXT, text TEXT)")
            file.execute("CREATE TABLE difficulty (id TEXT, pass_rate REAL)")
            asked = file.executemany("INSERT INTO question VALUES (?, ?, ?, ?)", questions).rowcount
            attempted = file.executemany("INSERT INTO difficulty VALUES (?, ?)", rates or ()).rowcount
            if rates is not None and asked != attempted:
                raise ArtifactError(f"synthesis: {attempted} of {asked} questions have attempts; run the stage again")
            file.execute("CREATE UNIQUE INDEX question_by_id ON question (id)")
            file.execute("CREATE UNIQUE INDEX difficulty_by_id ON difficulty (id)")
            file.commit()

    replace_file(path, write)


QuestionIndex = sqlite3.Connection


@contextmanager
def open_index(path: Path) -> Iterator[QuestionIndex]:
    """Open the file for `look_up`."""
    with closing(sqlite3.connect(path)) as file:
        yield file


def look_up(lookup: QuestionIndex, question_ids: Iterable[str]) -> dict[str, IndexedQuestion]:
    """Look up questions by id, in the given order.

    Raises:
        ArtifactError: a question does not exist.
    """
    found = {}
    select = "SELECT prompt, answer, text, pass_rate FROM question LEFT JOIN difficulty USING (id) WHERE id = ?"
    for question_id in question_ids:
        row = lookup.execute(select, (question_id,)).fetchone()
        if row is None:
            raise ArtifactError(f"synthesis: question {question_id!r} was sampled but is no training question; sample again")
        found[question_id] = IndexedQuestion(*row)
    return found


def mean_pass_rate(lookup: QuestionIndex) -> float | None:
    """Mean pass rate over all questions; None if nothing was attempted."""
    found: float | None = lookup.execute("SELECT avg(pass_rate) FROM difficulty").fetchone()[0]
    return found
