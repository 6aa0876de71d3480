"""A question, and questions as tables.

`sources.py` and `named.py` say where questions come from, `rows.py` reads rows from there, `columns.py` makes questions of rows, and
`load.py` is all of it: a stream of checked questions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

import pyarrow as pa

from pipeline.grading.grade import LETTERS, Grade, grade

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
        """Grade one completion; see `pipeline/grading/grade.py`."""
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
