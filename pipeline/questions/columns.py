"""Converts one row to one validated question according to `Columns`; an error names the row and the column.

Texts are not changed: emoji, right-to-left text and any kind of line ending are part of a question. Text that no model can read is
rejected: NUL characters and unpaired surrogates, which are not Unicode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.errors import QuestionError, shown
from pipeline.grading.grade import ANSWER_TYPES, LETTERS, canonical
from pipeline.questions.question import Question
from pipeline.questions.sources import Columns
from pipeline.schema.linear_patterns import all_captured, captured
from pipeline.text_digests import digest

Row = Mapping[str, Any]


def _field(found: Any, name: str) -> Any:
    if isinstance(found, list):
        return [_field(one, name) for one in found]
    return found.get(name) if isinstance(found, Mapping) else None


def _written(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return str(int(value)) if value.is_integer() else f"{value:.15g}"


def _single(value: Any) -> bool:
    """Whether a value is a text or a number."""
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value == value


class RowReader(NamedTuple):
    """A row with its column mapping and its location for error messages."""

    where: str
    columns: Columns
    row: Row

    def error(self, column: str | None, said: str) -> QuestionError:
        """An error about a column of this row."""
        return QuestionError(f"{self.where}: column {column!r}: {said}")

    def value(self, column: str | None, required: bool = False) -> Any:
        """The value of a column; `a.b` is field b inside column a, or in each item of a list."""
        if column is None:
            return None
        if column in self.row:
            return self.row[column]
        found: Any = self.row
        for part in column.split("."):
            found = _field(found, part)
        if required and found is None and column.split(".")[0] not in self.row:
            raise QuestionError(
                f"{self.where}: no column {column!r} (it has {shown(', '.join(self.row))}); map it under columns"
            )
        return found

    def text(self, column: str | None, required: bool = False) -> str:
        """A column's single value as text; a float is written with 15 significant digits, so 0.1 + 0.2 becomes 0.3."""
        value = self.value(column, required)
        if value is None or value != value or (required and not str(value).strip()):
            if required:
                raise self.error(column, "empty; fill it or remove the row")
            return ""
        if isinstance(value, list | dict | bytes):
            raise self.error(
                column, f"holds a {type(value).__name__}, expected a single value; map another column or convert it"
            )
        return self.clean(column, _written(value))

    def clean(self, column: str | None, text: str) -> str:
        """Returns the text if it can be stored and used in a prompt; raises otherwise."""
        if "\0" in text:
            raise self.error(column, "contains a NUL character; remove it")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.error(column, "is not valid Unicode (unpaired surrogate); write the file again in UTF-8") from error
        return text

    def cut(self, column: str | None, pattern: str | None, text: str) -> str:
        """The part of a text that a pattern captures; the whole text without a pattern."""
        if pattern is None:
            return text
        found = captured(pattern, text)
        if found is None:
            raise self.error(column, f"pattern {pattern!r} does not match; correct the pattern")
        return found


def _question(place: RowReader) -> str:
    names = place.columns.question
    parts = [place.text(name, required=True) for name in ((names,) if isinstance(names, str) else names)]
    shown = names if isinstance(names, str) else ", ".join(names)
    wording = place.cut(shown, place.columns.question_pattern, " ".join(parts))
    if not wording.strip():
        raise place.error(shown, "the pattern extracts an empty text; correct the pattern")
    return wording


def _choices(place: RowReader) -> tuple[str, ...]:
    names, pattern = place.columns.choices, place.columns.choice_pattern
    if isinstance(names, tuple):
        return tuple(place.cut(name, pattern, place.text(name, required=True)) for name in names)
    found = place.value(names)
    if found is None:
        return ()
    if isinstance(found, str) and pattern is not None:
        return all_captured(pattern, place.clean(names, found))
    if not isinstance(found, list) or not all(_single(choice) for choice in found):
        raise place.error(names, "expected a list of texts or numbers; convert it, or set columns.choices to null")
    if len(found) > len(LETTERS):
        raise place.error(names, f"{len(found)} choices, at most {len(LETTERS)} are supported; remove some")
    return tuple(place.cut(names, pattern, place.clean(names, _written(choice))) for choice in found)


def _index(place: RowReader, choices: Sequence[str]) -> str:
    """The letter of the choice with the given index; the index may be the only item of a list."""
    column = place.columns.answer
    value = place.value(column, required=True)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,2}", value):  # a number in CSV or JSON
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(choices):
        raise place.error(column, f"{value!r} is not the index of one of {len(choices)} choices; correct it (the first is 0)")
    return LETTERS[value]


def _among(place: RowReader, stated: str, known: Sequence[str], what: str) -> str:
    """The letter of the entry of `known` that equals `stated`."""
    if stated not in known:
        shown = ", ".join(repr(item) for item in known) or "(none)"
        raise place.error(
            place.columns.answer, f"{stated!r} is not one of the {what}: {shown}; correct the answer or the columns"
        )
    return LETTERS[list(known).index(stated)]


def _answer(place: RowReader, answer_type: str, choices: Sequence[str]) -> str:
    """The answer in canonical form, so that equal answers are equal strings."""
    columns = place.columns
    if columns.answer_is == "index":
        return _index(place, choices)
    stated = place.cut(columns.answer, columns.answer_pattern, place.text(columns.answer, required=True))
    if columns.answer_is == "choice":
        return _among(place, stated, choices, "choices")
    if columns.labels is not None:
        labels = place.value(columns.labels, required=True)
        if not isinstance(labels, list) or len(labels) != len(choices):
            raise place.error(columns.labels, f"expected a list of {len(choices)} labels, one for each choice; correct it")
        return _among(place, stated, [str(label) for label in labels], "labels")
    answer = canonical(stated, answer_type, choices)
    if answer is None:
        raise place.error(columns.answer, f"{stated!r} is not a {answer_type}; correct the answer or its type")
    return answer


def _answer_type(place: RowReader, fixed: str | None, choices: Sequence[str]) -> str:
    column = place.columns.answer_type
    found = fixed or place.text(column) or ("choice" if choices else "text")
    if found not in ANSWER_TYPES:
        raise place.error(column, f"{found!r} is not an answer type; use {', '.join(ANSWER_TYPES[:-1])} or {ANSWER_TYPES[-1]}")
    return found


def _shuffled(question_id: str, choices: tuple[str, ...], answer: str) -> tuple[tuple[str, ...], str]:
    """The choices in an order determined by the id, and the new letter of the correct one."""
    order = sorted(range(len(choices)), key=lambda number: digest(f"{question_id}\0{number}"))
    return tuple(choices[number] for number in order), LETTERS[order.index(LETTERS.index(answer))]


def question_of(place: RowReader, answer_type: str | None, numbered: str, name: str = "") -> Question:
    """One validated question. `numbered` is the id for sources without ids; `name` is prefixed to ids from the source.

    Raises:
        QuestionError: location, column and expected value.
    """
    columns = place.columns
    stated = place.text(columns.id, required=columns.id is not None)
    question_id = "/".join(filter(None, (name, stated))) if columns.id is not None else numbered
    choices = _choices(place)
    kind = _answer_type(place, answer_type, choices)
    answer = _answer(place, kind, choices)
    if columns.shuffle:
        choices, answer = _shuffled(question_id, choices, answer)
    return Question(
        id=question_id,
        question=_question(place),
        answer=answer,
        answer_type=kind,
        choices=choices,
        rationale=place.text(columns.rationale),
        source=str(place.row["source"] or ""),
        split=str(place.row["split"] or ""),
        task=place.text(columns.task),
    )
