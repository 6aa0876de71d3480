"""Joins what several artifacts say about a question, in an SQLite file in the draft's scratch folder, so that no memory holds all texts.

The artifacts have their rows in different orders: a resumed stage may write a question late. A question has a set, given by its number, a
place in the set, and named parts; all contents are stored as JSON.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson

from pipeline.text_digests import digest

Joined = sqlite3.Connection


@contextmanager
def open_joined(path: Path) -> Iterator[Joined]:
    """A new file, which is removed at the end."""
    path.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(path)) as joined:
            # A file of a killed process is discarded, so no rollback journal is needed.
            joined.execute("PRAGMA journal_mode = OFF")
            joined.execute("CREATE TABLE question (key BLOB PRIMARY KEY, number INTEGER, place INTEGER, content BLOB)")
            joined.execute("CREATE INDEX in_order ON question (number, place)")
            joined.execute("CREATE TABLE part (key BLOB, name TEXT, content BLOB)")
            yield joined
    finally:
        path.unlink(missing_ok=True)


def _key(question_id: str) -> bytes:
    return digest(question_id).to_bytes(16, "big")


def add_question(joined: Joined, number: int, place: int, question_id: str, content: dict[str, Any]) -> None:
    """A question of the set `number`; questions of a set are read by `place`."""
    row = (_key(question_id), number, place, orjson.dumps(content))
    joined.execute("INSERT INTO question VALUES (?, ?, ?, ?)", row)


def add_part(joined: Joined, question_id: str, name: str, content: dict[str, Any]) -> None:
    """What one source says about a question."""
    joined.execute("INSERT INTO part VALUES (?, ?, ?)", (_key(question_id), name, orjson.dumps(content)))


def entries(joined: Joined) -> Iterator[tuple[int, bytes]]:
    """The set of each question, and the question with its parts as JSON, in order."""
    joined.execute("CREATE INDEX IF NOT EXISTS of_question ON part (key)")
    for key, number, content in joined.execute("SELECT key, number, content FROM question ORDER BY number, place"):
        parts = joined.execute("SELECT name, content FROM part WHERE key = ? ORDER BY rowid", (key,))
        entry = {"set": number, "question": orjson.Fragment(content)}
        yield number, orjson.dumps(entry | {name: orjson.Fragment(said) for name, said in parts})
