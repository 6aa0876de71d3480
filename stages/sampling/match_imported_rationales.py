"""Imports existing rationales as samples instead of asking a teacher; they are graded, and judged, like any other sample.

Rows may come in any order. They are first indexed by question in an SQLite file in the draft's scratch folder; then the training questions
are streamed and their rationales written, one shard at a time. Rows that match no training question are counted, and the first ones are
named. Token counts are 0, because no teacher generated tokens in this run.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipeline.config.rationales import ImportedRationales
from pipeline.errors import QuestionError
from pipeline.generation.engine import Completion
from pipeline.generation.servers.answer_journal import rotate
from pipeline.grading.grade import LETTERS
from pipeline.prefetch import chunks
from pipeline.questions.question import Question
from pipeline.rationales.clustering import clusters
from pipeline.rationales.read_imported_rows import key_of_id, key_of_wording, rationales
from pipeline.text_digests import digest
from stages.core.paid_tokens import Asked, journal_file, spent_on
from stages.core.progress import Progress
from stages.core.summaries import QuestionsSummary, SamplingSummary
from stages.sampling.judging import check_room, judge_rows, open_judge, verdicts
from stages.sampling.samples import JUDGED, SCHEMA, graded_row
from stages.sampling.stage_config import Config
from stages.sampling.summary import COUNTED, tally
from stages.shared.finished_questions import finished_questions, training_questions
from storage.artifact import Artifact, Draft
from storage.atomic import replace_file
from storage.mirror import DERIVED

_NAMED: Final = 3


def _keys(source: ImportedRationales, question: Question) -> list[str]:
    """The index keys of a question's rationales; wording is tried without the choices, and with them in the usual forms."""
    if source.columns.question is None:
        return [key_of_id(question.id)]
    return list(dict.fromkeys(key_of_wording(text) for text in (question.question, *_with_choices(question))))


def _with_choices(question: Question) -> list[str]:
    """The question followed by its choices: (A) one, A) one, A. one."""
    choices = list(zip(LETTERS, question.choices, strict=False))
    forms = ("({}) {}", "{}) {}", "{}. {}") if choices else ()
    return ["\n".join([question.question, *(form.format(*choice) for choice in choices)]) for form in forms]


def _write_index(
    path: Path, source: ImportedRationales, names: tuple[str, ...], questions: Iterable[Question], seed: int
) -> None:
    def write(temporary: Path) -> None:
        with closing(sqlite3.connect(temporary)) as file:
            # An unfinished file is discarded, so no rollback journal is needed.
            file.execute("PRAGMA journal_mode = OFF")
            file.execute(
                "CREATE TABLE given (number INTEGER PRIMARY KEY, key TEXT, question TEXT, label TEXT, text TEXT, finished INT)"
            )
            file.execute("CREATE TABLE asked (key TEXT, id TEXT, PRIMARY KEY (key, id)) WITHOUT ROWID")
            file.executemany(
                "INSERT INTO given (key, question, label, text, finished) VALUES (?, ?, ?, ?, ?)", rationales(source, names)
            )
            file.executemany(
                "INSERT INTO asked VALUES (?, ?)", ((key, item.id) for item in questions for key in _keys(source, item))
            )
            file.execute("CREATE INDEX given_by_key ON given (key)")
            _refuse_ambiguous(file, source)
            if source.unlabelled == "clustered":
                _label_by_cluster(file, names, seed)
            file.commit()

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)


def _refuse_ambiguous(file: sqlite3.Connection, source: ImportedRationales) -> None:
    """A rationale belongs to one question. Rows that match by wording may match several.

    Raises:
        QuestionError: the first row whose wording several training questions have.
    """
    query = (
        "SELECT number, question, min(id), max(id), count(id) FROM given JOIN asked USING (key) GROUP BY number HAVING count(id) > 1"
        " ORDER BY number LIMIT 1"
    )
    for number, question, first, last, count in file.execute(query):
        raise QuestionError(
            f"{source.path}: row {number}: {count} training questions, {first!r} and {last!r} among them, have the wording "
            f"{question[:60]!r}; name each row's question by its id: sampling.rationales.columns.question_id"
        )


def _label_by_cluster(file: sqlite3.Connection, names: tuple[str, ...], seed: int) -> None:
    """Label rationales by cluster. Clustering needs all texts at once, so they are held in memory."""
    rows = file.execute("SELECT number, key, text FROM given WHERE key IN (SELECT key FROM asked) ORDER BY number").fetchall()
    if not rows:
        return
    keys = {key: place for place, key in enumerate(dict.fromkeys(key for _, key, _ in rows))}
    found = clusters([text for *_, text in rows], [keys[key] for _, key, _ in rows], len(names), seed)
    labels = ((names[cluster], number) for cluster, (number, *_) in zip(found, rows, strict=True))
    file.executemany("UPDATE given SET label = ? WHERE number = ?", labels)


def _matched(file: sqlite3.Connection, source: ImportedRationales, first: Question) -> dict[str, int]:
    """The number of rows, and of rows that match no training question, whose first ones are printed.

    Raises:
        QuestionError: no row matches a training question.
    """
    count, missed = (
        file.execute(f"SELECT count(*) FROM given {where}").fetchone()[0]
        for where in ("", "WHERE key NOT IN (SELECT key FROM asked)")
    )
    if missed:
        query = "SELECT DISTINCT question FROM given WHERE key NOT IN (SELECT key FROM asked) ORDER BY number LIMIT ?"
        named = ", ".join(repr(question[:60]) for (question,) in file.execute(query, (_NAMED,)))
        if missed == count:
            ours = first.id if source.columns.question is None else first.question
            raise QuestionError(
                f"{source.path}: none of {count} rows matches a training question: rows have {named}, the first training question is "
                f"{ours[:60]!r}; correct columns.question or columns.question_id under sampling.rationales"
            )
        print(f"sampling: {missed} of {count} imported rationales match no training question: {named}", flush=True)
    return {"given": count, "given_about_no_question": missed}


def _rows(
    file: sqlite3.Connection, source: ImportedRationales, names: tuple[str, ...], question: Question
) -> Iterator[dict[str, Any]]:
    """A question's graded rationales, in order; unlabelled ones are assigned to the perspectives in turn."""
    taken = Counter[str]()
    marks = _keys(source, question)
    query = f"SELECT label, text, finished FROM given WHERE key IN ({', '.join('?' * len(marks))}) ORDER BY number"
    for number, (label, text, finished) in enumerate(file.execute(query, marks)):
        name = label or names[number % len(names)]
        said = Completion(text, "stop" if finished else "length", 0, 0, None)
        yield graded_row(question, name, taken[name], 0, said, question.grade(text, bool(finished)))
        taken[name] += 1


def import_rationales(
    config: Config, source: ImportedRationales, questions: Artifact, out: Draft, progress: Progress
) -> SamplingSummary:
    """Write the samples of every training question that has rationales.

    Raises:
        QuestionError: a row cannot be read, or none matches a training question.
    """
    names = tuple(item.name for item in config.perspectives)
    path = out.scratch / DERIVED / "given.sqlite"
    if not path.exists():
        _write_index(path, source, names, training_questions(questions), config.seed)
    finished = finished_questions(out.shards("samples", ["question_id"]))
    progress.start("imported rationales", QuestionsSummary.of(questions).train, "questions", len(finished))
    with closing(sqlite3.connect(path)) as file:
        counts = _matched(file, source, next(training_questions(questions)))

        def missing() -> Iterator[Question]:
            return (item for item in training_questions(questions) if digest(item.id) not in finished)

        judge, arrived = config.sampling.judge, journal_file(out.scratch, "judge")
        check_room(judge, missing, 0)
        with open_judge(judge, arrived) as engine:
            for chunk in chunks(missing(), config.sampling.questions_per_shard):
                found = [(question, row) for question in chunk for row in _rows(file, source, names, question)]
                rows = [row for _, row in found]
                judge_rows(engine, judge, rows, [question for question, _ in found])
                if rows:
                    out.write_shard("samples", pa.Table.from_pylist(rows, schema=SCHEMA if judge is None else JUDGED))
                rotate(arrived)
                progress.advance(len(chunk))
    summary = tally(out.shards("samples", COUNTED), names, out.folder)
    paid = {} if judge is None else {"judge": Asked(judge.engine, arrived)}
    return summary.model_copy(update={**counts, "judged": verdicts(judge, out), "spent": spent_on(paid)})
