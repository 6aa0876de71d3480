"""Stage 1: questions from their sources, checked, with no question on both sides.

Writes `questions-*.parquet`: the schema of `pipeline/questions.py` plus `role` (train, id, ood), `set` and `use` (train, dev, test),
evaluation first. A training question whose id or normalised text is also in an evaluation set is left out of training and counted.
Questions pass through one shard at a time; only digests of their ids, and of the wordings of evaluated ones, are held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final, NamedTuple

import pyarrow as pa

from pipeline.chunks import chunks
from pipeline.config import Frozen, Questions, RunConfig, identity
from pipeline.digests import digest
from pipeline.errors import QuestionError
from pipeline.questions import Question, content, load, to_table
from stages.progress import Progress
from storage.artifact import Artifact, Draft

NAME: Final = "questions"
VERSION: Final = 3
INPUTS: Final[tuple[str, ...]] = ()
ROWS: Final = 8192
"""Of one shard, the last one aside."""


class Config(Frozen):
    """The sources."""

    questions: Questions = identity()


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    return Config(questions=run.questions)


def outside(config: Config) -> dict[str, str]:
    """Digests of files and local folders."""
    sources = [*config.questions.train, *(item.source for item in config.questions.evaluation)]
    found = {f"source {number}": content(source) for number, source in enumerate(sources)}
    return {name: digest for name, digest in found.items() if digest is not None}


def check(config: Config) -> None:
    """Rows are checked by `run`, which loads no model."""


def known_by(question: Question) -> tuple[int, int]:
    """What makes it the same question as another, either of the two: its id, its wording."""
    return digest(f"id\0{question.id}"), digest("\0".join(("wording", *question.wording)))


def separated(train: Iterable[Question], evaluated: set[int]) -> Iterator[Question]:
    """Training questions that no evaluated one is the same as; `evaluated` has what those are known by."""
    return (question for question in train if evaluated.isdisjoint(known_by(question)))


def _distinct(questions: Iterable[Question], seen: set[int], where: str) -> Iterator[Question]:
    """The questions, of which none may have an id in `seen`, where theirs are put."""
    for question in questions:
        identity = digest(question.id)
        if identity in seen:
            raise QuestionError(f"{where}: id {question.id!r} comes from two sources; give each question its own id")
        seen.add(identity)
        yield question


class _Marked(NamedTuple):
    """A question and what it is for."""

    question: Question
    role: str
    set: str
    use: str


def _evaluation(config: Config, evaluated: set[int], counts: Counter[str], progress: Progress) -> Iterator[_Marked]:
    """Evaluation questions; `evaluated` receives what they are known by."""
    ids: set[int] = set()
    for item in config.questions.evaluation:
        for question in _distinct(load(item.source), ids, "questions.evaluation"):
            evaluated.update(known_by(question))
            counts[item.name] += 1
            yield _Marked(question, item.group, item.name, item.use)
        progress.advance(1)


def _train(config: Config, evaluated: set[int], offered: Counter[str], progress: Progress) -> Iterator[_Marked]:
    """Training questions that are not evaluated; `offered` counts all of them."""
    ids: set[int] = set()
    for source in config.questions.train:
        every = _distinct(load(source), ids, "questions.train")
        for question in separated(every, evaluated):
            offered["train"] += 1
            yield _Marked(question, "train", "train", "train")
        progress.advance(1)
    offered["all"] = len(ids)


def _table(rows: list[_Marked]) -> pa.Table:
    table = to_table(row.question for row in rows)
    for column in ("role", "set", "use"):
        table = table.append_column(column, pa.array([getattr(row, column) for row in rows], pa.string()))
    return table


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> dict[str, Any]:
    """Stream every source into shards, evaluation first: what it holds decides what training may have."""
    sources = config.questions
    progress.start("sources", len(sources.train) + len(sources.evaluation), "sources")
    evaluated: set[int] = set()
    evaluation, train = Counter[str](), Counter[str]()
    out.clear("questions")
    rows = chain(
        _evaluation(config, evaluated, evaluation, progress),
        _train(config, evaluated, train, progress),
    )
    for chunk in chunks(rows, ROWS):
        out.write_shard("questions", _table(chunk))
    if not train["train"]:
        raise QuestionError("questions.train: every question is also in an evaluation set; use another source")
    return {
        "train": train["train"],
        "left_out_because_evaluated": train["all"] - train["train"],
        "evaluation": {item.name: evaluation[item.name] for item in sources.evaluation},
    }


if __name__ == "__main__":
    from stages.process import main

    main(NAME)
