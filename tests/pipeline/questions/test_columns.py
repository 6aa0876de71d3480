"""Reads one row as one question: columns, patterns, choices and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config.prompts import Prompts
from pipeline.errors import QuestionError
from pipeline.grading.grade import LETTERS, Outcome, conclusion
from pipeline.prompt_rendering import prompt_tokens, student_prompt
from pipeline.questions.columns import RowReader, question_of
from pipeline.questions.question import Question
from pipeline.questions.sources import Columns

GOOD: dict[str, Any] = {"id": "q", "question": "What is 3+4?", "answer": "7"}


def read(row: dict[str, Any], answer_type: str | None = None, **columns: Any) -> Question:
    place = RowReader("f: row 1", Columns(**columns), {"source": "", "split": "", "subset": "algebra", **row})
    return question_of(place, answer_type, "f/1")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)


@given(texts, texts, st.lists(texts, max_size=5))
def test_texts_without_nul_are_kept_unchanged(question: str, identity: str, choices: list[str]) -> None:
    found = read({"id": identity, "question": question, "choices": choices, "answer": "x"}, "text")
    assert (found.id, found.question, found.choices) == (identity, question, tuple(choices))


ODD = [
    "How many 🦆🦆 and 👩‍👩‍👧?",
    "كم بيضة؟ 3+4",
    "שאלה \u200fעם\u200e סימנים",
    "first\r\nsecond\rthird\n\nlast ",
    "tab\tand\u00a0space\u2028line",
]


@pytest.mark.parametrize("text", ODD)
def test_unusual_text_survives_prompt_tokens_and_grading(text: str, tiny_tokenizer: Any) -> None:
    question = read({"id": text, "question": text, "answer": text}, "text")
    prompt = student_prompt(Prompts(), question)
    assert prompt.startswith(f"{text}\n\n")
    assert tiny_tokenizer.decode(prompt_tokens(tiny_tokenizer, prompt, None)) == prompt
    assert question.grade(conclusion(question.answer), True).outcome == Outcome.CORRECT


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": "what\0is it?"}, "column 'question': contains a NUL character"),
        ({"answer": "1\0"}, "column 'answer': contains a NUL character"),
        ({"choices": ["a", "b\0"], "answer": "A"}, "column 'choices': contains a NUL character"),
        ({"id": "a\0b"}, "column 'id': contains a NUL character"),
        ({"rationale": "\0"}, "column 'rationale': contains a NUL character"),
        ({"question": "duck \ud83d?"}, "column 'question': is not valid Unicode"),
        ({"choices": ["\udc00", "b"], "answer": "A"}, "column 'choices': is not valid Unicode"),
        ({"answer": ["7"]}, "column 'answer': holds a list, expected a single value"),
        ({"question": {"text": "?"}}, "column 'question': holds a dict"),
        ({"answer": float("nan")}, "column 'answer': empty"),
        ({"answer": True, "answer_type": "number"}, "column 'answer': 'True' is not a number"),
        ({"choices": [str(n) for n in range(27)]}, "column 'choices': 27 choices, at most 26 are supported"),
        ({"choices": ["a", True]}, "column 'choices': expected a list of texts or numbers"),
        ({"choices": ["a", float("nan")]}, "column 'choices': expected a list of texts or numbers"),
        ({"choices": ["a", None]}, "column 'choices': expected a list of texts or numbers"),
    ],
)
def test_values_that_cannot_be_used_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(QuestionError, match=f"^f: row 1: {said}"):
        read({**GOOD, **change})


@pytest.mark.parametrize(
    ("value", "kind", "answer"),
    [(7, "number", "7"), (7.5, "number", "15/2"), (0.1 + 0.2, "number", "3/10"), (3431580.0, "number", "3431580"), (True, "boolean", "yes"),
     ("no", "boolean", "no"), ("Paris ", "text", "paris")],
)  # fmt: skip
def test_answers_of_several_python_types_are_read(value: Any, kind: str, answer: str) -> None:
    assert read({**GOOD, "answer": value, "answer_type": kind}).answer == answer


@given(st.lists(texts, min_size=2, max_size=6, unique=True), st.data(), st.booleans())
def test_label_index_and_text_of_a_choice_give_the_same_question(choices: list[str], data: Any, shuffle: bool) -> None:
    right = data.draw(st.integers(0, len(choices) - 1))
    labels = [str(number + 1) for number in range(len(choices))]
    row = {"id": "q", "question": "Which?", "choices": {"text": choices, "label": labels}}
    asked = {"choices": "choices.text", "shuffle": shuffle}
    by_label = read({**row, "answer": labels[right]}, "choice", labels="choices.label", **asked)
    by_place = read({**row, "answer": [right]}, "choice", answer_is="index", **asked)
    by_text = read({**row, "answer": choices[right]}, "choice", answer_is="choice", **asked)
    assert by_label == by_place == by_text
    assert by_label.choices[LETTERS.index(by_label.answer)] == choices[right]
    assert sorted(by_label.choices) == sorted(choices)


def test_the_order_of_shuffled_choices_depends_on_the_id_alone() -> None:
    def order(identity: str) -> tuple[str, ...]:
        return read(
            {"id": identity, "question": "?", "choices": list("wxyz"), "answer": 0}, answer_is="index", shuffle=True
        ).choices

    assert order("a") == order("a")
    assert len({order(f"q{n}") for n in range(200)}) == 24


@pytest.mark.parametrize(
    ("row", "columns", "said"),
    [
        ({"answer": "3"}, {"labels": "labels"}, "column 'answer': '3' is not one of the labels: '1', '2'"),
        ({"answer": "1", "labels": ["1"]}, {"labels": "labels"}, "column 'labels': expected a list of 2 labels"),
        ({"answer": "fish"}, {"answer_is": "choice"}, "column 'answer': 'fish' is not one of the choices: 'cat', 'crow'"),
        ({"answer": 2}, {"answer_is": "index"}, "column 'answer': 2 is not the index of one of 2 choices"),
        ({"answer": [0, 1]}, {"answer_is": "index"}, "column 'answer': [0, 1] is not the index"),
        ({"answer": True}, {"answer_is": "index"}, "column 'answer': True is not the index"),
        ({"answer": "A"}, {"choice_pattern": r"^\((.*)\)$"}, "column 'choices': .* does not match"),
        ({"answer": "A"}, {"question_pattern": "Q: (.*)"}, "column 'question': .* does not match"),
        (
            {"answer": "A", "question": "Q: "},
            {"question_pattern": "Q: (.*)"},
            "column 'question': the pattern extracts an empty text",
        ),
        ({"answer": "A"}, {"question": ("question", "body")}, r"no column 'body' \(it has .*\); map it under columns"),
        ({"answer": "A"}, {"choices": ("one", "two")}, "no column 'one'"),
    ],
)
def test_a_row_that_does_not_fit_its_columns_is_refused(row: dict[str, Any], columns: dict[str, Any], said: str) -> None:
    given_row = {"id": "q", "question": "Which flies?", "choices": ["cat", "crow"], "labels": ["1", "2"], **row}
    with pytest.raises(QuestionError) as raised:
        read(given_row, "choice", **columns)
    assert raised.match(f"^f: row 1: {said}".replace("[0, 1]", r"\[0, 1\]"))


def test_nested_fields_are_read_from_records_and_lists_of_records() -> None:
    records = [{"text": "cat", "label": "A"}, {"text": "crow", "label": "B"}]
    row = {**GOOD, "answer": {"key": "B"}, "choices": records}
    found = read(row, "choice", answer="answer.key", choices="choices.text", labels="choices.label", task="subset")
    assert (found.choices, found.answer, found.task) == (("cat", "crow"), "B", "algebra")


@pytest.mark.parametrize("name", ["question_pattern", "answer_pattern", "choice_pattern"])
@pytest.mark.parametrize("pattern", ["#### (", "####", "#### 7|(8)(9)"])
def test_a_pattern_without_exactly_one_group_is_refused(name: str, pattern: str) -> None:
    with pytest.raises(ValidationError, match=r"not a valid RE2 pattern|groups; use exactly one"):
        Columns.model_validate({name: pattern})


def test_labels_and_answer_index_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="labels and answer_is: index exclude each other"):
        Columns(labels="labels", answer_is="index")
