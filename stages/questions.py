"""Stage 1: questions from their sources, checked, with no question on both sides.

Writes `questions.parquet`: the schema of `pipeline/questions.py` plus `role` (train, id, ood), `set` and `use` (train, dev, test).
A training question whose id or normalised text is also in an evaluation set is left out of training and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from pipeline.config import EvaluationSet, Frozen, Questions, RunConfig, identity
from pipeline.errors import QuestionError
from pipeline.questions import Question, content, load, to_table
from stages.progress import Progress
from storage.artifact import Artifact, Draft

NAME: Final = "questions"
VERSION: Final = 1
INPUTS: Final[tuple[str, ...]] = ()


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


def separated(train: list[Question], evaluation: list[Question]) -> list[Question]:
    """Training questions whose id and normalised text no evaluation question has."""
    ids = {question.id for question in evaluation}
    wordings = {question.wording for question in evaluation}
    return [question for question in train if question.id not in ids and question.wording not in wordings]


def _unique(questions: list[Question], where: str) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise QuestionError(f"{where}: id {question.id!r} comes from two sources; give each question its own id")
        seen.add(question.id)


def _marked(questions: list[Question], **marks: str) -> pa.Table:
    table = to_table(questions)
    for column, value in marks.items():
        table = table.append_column(column, pa.array([value] * len(questions), pa.string()))
    return table


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> dict[str, Any]:
    """Load every source and write one table."""
    sources = config.questions
    progress.start("sources", len(sources.train) + len(sources.evaluation), "sources")
    offered = [question for source in sources.train for question in load(source)]
    progress.advance(len(sources.train))
    evaluation: list[tuple[EvaluationSet, list[Question]]] = []
    for item in sources.evaluation:
        evaluation.append((item, load(item.source)))
        progress.advance(1)
    _unique(offered, "questions.train")
    _unique([question for _, questions in evaluation for question in questions], "questions.evaluation")
    train = separated(offered, [question for _, questions in evaluation for question in questions])
    if not train:
        raise QuestionError("questions.train: every question is also in an evaluation set; use another source")
    tables = [_marked(train, role="train", set="train", use="train")]
    tables += [_marked(questions, role=item.group, set=item.name, use=item.use) for item, questions in evaluation]
    out.write_table("questions", pa.concat_tables(tables))
    return {
        "train": len(train),
        "left_out_because_evaluated": len(offered) - len(train),
        "evaluation": {item.name: len(questions) for item, questions in evaluation},
    }


if __name__ == "__main__":
    from stages.process import main

    main(NAME)
