from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.grading.grade import ANSWER_TYPES
from pipeline.questions.question import Question, from_table, to_table

words = st.text(st.characters(codec="utf-8"), max_size=12)
questions = st.builds(
    Question,
    id=words, question=words, answer=words, answer_type=st.sampled_from(ANSWER_TYPES),
    choices=st.lists(words, max_size=4).map(tuple), rationale=words, source=words, split=words, task=words,
)  # fmt: skip


@given(st.lists(questions, max_size=5))
def test_questions_survive_a_table_round_trip(items: list[Question]) -> None:
    assert from_table(to_table(items)) == items


def test_choices_are_shown_with_their_letters() -> None:
    question = Question("q", "Which flies?", "B", "choice", ("cat", "crow"))
    assert question.text == "Which flies?\n(A) cat\n(B) crow"
