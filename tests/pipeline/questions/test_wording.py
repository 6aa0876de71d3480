"""Two texts have one normalised wording exactly if they are the same question."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.questions.wording import normalised


@given(st.text(), st.sampled_from(["  ", "\n", ".", "?!", "\u00a0"]))
def test_case_spacing_and_sentence_punctuation_do_not_count(text: str, noise: str) -> None:
    ascii_text = text.encode("ascii", "ignore").decode()
    assert normalised(f" {noise} {ascii_text.upper()} {noise}") == normalised(ascii_text)


@pytest.mark.parametrize(
    ("one", "other"),
    [("What is 3+4?", "what is 3 + 4"), ("Tom’s “hat”, please…", "tom's hat please"), ("Wow! It is 5 − 3.", "wow it is 5-3"),
     ("¿Qué es 2·3?", "qué es 2 3"), ("ｆｕｌｌ　ｗｉｄｔｈ？", "full width"), ("What is x²?", "What is x^2?"),
     ("1½ cups", "1 1⁄2 cups"), ("❤️ or ❤", "❤ or ❤️"), ("zero\u200bwidth", "zerowidth")],
)  # fmt: skip
def test_forms_of_one_wording_are_equal(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("What is 8 × 2?", "What is 8 ÷ 2?"), ("What is 8 − 2?", "What is 8 × 2?"), ("Turn it +5.", "Turn it -5."),
     ("Compute 5!.", "Compute 5."), ("What is n! + 1?", "What is n + 1?"), ("Is !p true?", "Is p true?"), ("a != b", "a = b"),
     ("Is 3 in [1, 3)?", "Is 3 in [1, 3]?"), ("What is 2.5 + 1?", "What is 25 + 1?"), ("What is 2.5 + 1?", "What is 2 5 + 1?"),
     ("Add .5 to it.", "Add 5 to it."), ("Is it 3:45?", "Is it 3 45?"), ("Scale 3 : 4", "Scale 3 . 4"), ("5 ? 3 = 8", "5 3 = 8"),
     ("Evaluate |x - 3| at 1.", "Evaluate (x - 3) at 1."), ("A ⊂ B. Is A in B?", "A ⊃ B. Is A in B?"),
     ("Close the brackets: ( [ {", "Close the brackets: { [ ("), ("Which film is this? 🦁👑", "Which film is this? 🚢🧊"),
     ("x ≤ 3, y ≥ 2", "x ≥ 3, y ≤ 2"), ("What is √16?", "What is 16?"), ("Is ¬p ∧ q true?", "Is p ∨ q true?"),
     ("It costs $5.", "It costs €5."), ("x² is", "x2 is"), ("a₁", "a1"), ("1½ cups", "11⁄2 cups"), ("5' long", "5 long")],
)  # fmt: skip
def test_questions_that_differ_in_a_symbol_differ(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)
