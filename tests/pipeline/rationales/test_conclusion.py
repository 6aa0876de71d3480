"""Normalises the end of a rationale to the one answer sentence, and strips the answer statement."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.grading.grade import conclusion
from pipeline.rationales.conclusion import before_conclusion, with_answer_sentence, without_answer_statement

REASONING = "3+4=7. Then 7-2=5."
CORPUS = yaml.safe_load((Path(__file__).parent / "conclusion_corpus.yaml").read_text())
prose = st.lists(
    st.sampled_from(["a", "dial", "reads", "seven", "turns", "3+4=7", "by", "ten", "marks"]), min_size=1, max_size=12
).map(" ".join)


@pytest.mark.parametrize(
    "closing",
    [
        "", " The answer is \\boxed{5}.", " the answer is 5", "\nAnswer: 5", " So, the final answer is 5.", "\n\\boxed{5}",
        "\n\\[\\boxed{5}\\]", "\n$\\boxed{5}$.", "\nTherefore the answer is: \\boxed{5}.\n",
    ],
)  # fmt: skip
def test_every_closing_becomes_the_standard_answer_sentence(closing: str) -> None:
    assert with_answer_sentence(REASONING + closing, "5") == f"{REASONING} The answer is \\boxed{{5}}."


@pytest.mark.parametrize("text", ["The answer is \\boxed{5}.", "Answer: 5", "\\boxed{5}", "", "  \n"])
def test_a_text_without_reasoning_is_not_a_rationale(text: str) -> None:
    assert with_answer_sentence(text, "5") is None


@pytest.mark.parametrize(
    "text",
    [
        "We ask what the answer is. 3+4=7. Then 7-2=5. The answer is \\boxed{5}.",
        "A first answer is 9, but 3+4=7 and 7-2=5. The answer is \\boxed{5}.",
    ],
)
def test_reasoning_that_mentions_an_answer_is_kept(text: str) -> None:
    assert with_answer_sentence(text, "5") == text


@given(prose, st.integers(0, 999).map(str))
def test_concluding_twice_changes_nothing(text: str, answer: str) -> None:
    once = with_answer_sentence(text, answer)
    assert once is not None
    assert once.endswith(conclusion(answer))
    assert with_answer_sentence(once, answer) == once
    assert without_answer_statement(once) == f"{text}."


@pytest.mark.parametrize(
    "text", ["3+4=7 and 7-2=5", "She has 5 apples (as 7-2=5)", "So it is $5$", "**3+4=7**", "x = \\frac{5}{1}"]
)
def test_reasoning_without_a_full_stop_does_not_run_on(text: str) -> None:
    assert with_answer_sentence(text, "5") == f"{text}. {conclusion('5')}"
    assert with_answer_sentence(f"{text}.", "5") == f"{text}. {conclusion('5')}"
    assert with_answer_sentence(f"{text}. The answer is 5", "5") == f"{text}. {conclusion('5')}"


@pytest.mark.parametrize("text", ["We add.\n\\[\n3 + 4 = 7\n\\]", "We add.\n$$\n3 + 4 = 7\n$$"])
def test_a_display_is_not_followed_by_a_full_stop(text: str) -> None:
    assert with_answer_sentence(text, "7") == f"{text} {conclusion('7')}"


@given(prose, st.lists(st.sampled_from([*CORPUS["cut"], *(case["text"] for case in CORPUS["becomes"])]), max_size=2))
def test_no_rationale_states_its_answer_twice_or_breaks_off_at_a_comma(text: str, endings: list[str]) -> None:
    once = with_answer_sentence(text + ".".join(["", *endings]), "5")
    assert once is None or not once.removesuffix(conclusion("5")).rstrip().endswith(",")


def test_before_conclusion_drops_the_last_sentence_of_reasoning() -> None:
    assert before_conclusion(f"{REASONING} {conclusion('5')}") == f"3+4=7. {conclusion('5')}"
    assert before_conclusion(f"One sentence only. {conclusion('5')}") == conclusion("5")


@pytest.mark.parametrize("ending", CORPUS["cut"])
def test_an_ending_that_only_states_the_answer_is_removed(ending: str) -> None:
    assert without_answer_statement(REASONING + ending) == REASONING


@pytest.mark.parametrize("case", CORPUS["becomes"], ids=lambda case: case["text"][-40:])
def test_an_ending_that_is_also_a_step_is_kept_without_its_box(case: dict[str, str]) -> None:
    assert without_answer_statement(case["text"]) == case["body"]


@pytest.mark.parametrize("case", CORPUS["context"], ids=lambda case: case["text"][-40:])
def test_the_context_has_no_answer_and_no_broken_display(case: dict[str, str]) -> None:
    found = with_answer_sentence(case["text"], "12")
    assert found is not None
    assert before_conclusion(found) == f"{case['context']} {conclusion('12')}".strip()


@given(
    prose, st.lists(st.sampled_from([*CORPUS["cut"], *(case["text"] for case in CORPUS["becomes"]), "\n\n", ". "]), max_size=4)
)
def test_adding_the_answer_sentence_is_idempotent(text: str, endings: list[str]) -> None:
    once = with_answer_sentence(text + "".join(endings), "5")
    assume(once is not None)
    assert with_answer_sentence(str(once), "5") == once
    assert before_conclusion(str(once)).count("The answer is \\boxed") == 1


@given(prose, st.text(st.sampled_from("[](){}<> "), min_size=1, max_size=8).filter(str.strip))
def test_an_answer_of_unbalanced_brackets_is_removed(text: str, answer: str) -> None:
    assert without_answer_statement(f"{text} {conclusion(answer)}") == text


@given(st.text(st.sampled_from("so the answer is: \\[]{}$*#.\nboxed12,="), max_size=80))
def test_stripping_the_answer_is_idempotent_for_any_text(text: str) -> None:
    assert without_answer_statement(without_answer_statement(text)) == without_answer_statement(text)
