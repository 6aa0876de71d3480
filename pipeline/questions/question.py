"""A question, and questions as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final

import pyarrow as pa

from pipeline.grading import symbolic
from pipeline.grading.grade import LETTERS, Grade, grade
from pipeline.questions.wording import normalised

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
    """One problem with its gold answer in canonical form."""

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
        """Text for prompts: the question, followed by lettered choices if it has any."""
        if not self.choices:
            return self.question
        options = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False)]
        return "\n".join([self.question, *options])

    @property
    def wording(self) -> tuple[str, ...]:
        """Normalised question and choices, independent of the choices' order: equal for equal questions."""
        return (normalised(self.question), *sorted(normalised(choice) for choice in self.choices))

    def grade(self, text: str, finished: bool) -> Grade:
        """Grade one completion; `finished` is False if it was cut off at the token limit. See `pipeline/grading/grade.py`."""
        return grade(text, finished, self.answer, self.answer_type, self.choices)


def grades(answered: Sequence[tuple[Question, str, bool]]) -> list[Grade]:
    """Grades of (question, text, finished), in order. Comparisons that need math-verify run in several workers at once."""
    if all(question.answer_type != "math" for question, _, _ in answered):
        return [question.grade(text, finished) for question, text, finished in answered]
    with ThreadPoolExecutor(symbolic.WORKERS) as threads:
        return list(threads.map(lambda one: one[0].grade(one[1], one[2]), answered))


def to_table(questions: Iterable[Question]) -> pa.Table:
    """Questions as a table of `SCHEMA`."""
    rows = [{**asdict(question), "choices": list(question.choices)} for question in questions]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def from_table(table: pa.Table | pa.RecordBatch) -> list[Question]:
    """The inverse of `to_table`."""
    names = SCHEMA.names
    return [Question(**{**row, "choices": tuple(row["choices"])}) for row in table.select(names).to_pylist()]
