from __future__ import annotations

import time
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.grading.grade import ANSWER_TYPES, KILLED, Outcome, canonical, conclusion, grade, read_answer

ANIMALS = ("a cat", "a crow.", "a newt")
EXPRESSIONS = [
    "\\frac{1}{2}", "\\dfrac12", "x", "+", "(", ")", "[", ",", "2", "0.5", "\\pi", "\\text{ cm}", "\\left", "=", "^2", "\\%", "\\,", "$",
    "\\sqrt{", "}", "even", "B", "2516_8", "-", ".",
]  # fmt: skip
numerals = st.from_regex(r"-?\$?\d{1,12}(,\d{3})?(\.\d{1,12})?([eE]-?\d{1,2})?( ?/ ?\d{1,5})?%?", fullmatch=True)
answers = st.one_of(
    st.tuples(st.just("number"), numerals | st.text(max_size=8)),
    st.tuples(st.just("choice"), st.sampled_from([*ANIMALS, *(item.upper() for item in ANIMALS), *"abcABC", "(b)", "C.", "z"])),
    st.tuples(st.just("boolean"), st.sampled_from(["yes", "No", "TRUE", "false.", "perhaps"])),
    st.tuples(st.just("text"), st.text(max_size=12)),
    st.tuples(st.just("date"), st.dates(date(1000, 1, 1)).map(lambda day: day.strftime("%m/%d/%Y"))),
    st.tuples(st.just("math"), st.lists(st.sampled_from(EXPRESSIONS), max_size=6).map(" ".join)),
)
anything = st.text() | st.lists(
    st.sampled_from(["\\boxed{", "}", "{", "answer is ", "7", "1,0", ".", "%", "/", "0", "e", "(B)", "yes", "\n", " "])
).map("".join)


FRAGMENTS = [
    "\\boxed{", "\\boxed{1}, ", "the answer is ", "the answer is not ", "answer to ", "Answer\n", "the final answer (", "| answer ", "\\( ",
    "$", "{", "}", "1,", "1 ", "12 000 ", "1-", "03/", "- ", "**", "`", "(A) or ", "A is ", "yes or ", "So, ", "March ", "\\text{",
    "\\frac{1", "\n", "1. ", "= ", "Therefore, ",
]  # fmt: skip


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", "7"), ("-7", "-7"), ("+7", "7"), ("7.0", "7"), ("007", "7"), (" 7. ", "7"),
        ("1,000", "1000"), ("12,345,678.50", "24691357/2"), ("$12.50", "25/2"), ("\\$5", "5"), ("-$5", "-5"),
        ("75%", "3/4"), ("75 %", "3/4"), ("3/4", "3/4"), ("6/8", "3/4"), ("8 / 4", "2"), ("-3/4", "-3/4"), ("0.75", "3/4"),
        ("1e3", "1000"), ("2.5E-1", "1/4"), ("0", "0"), ("-0", "0"),
        ("", None), ("seven", None), ("1/0", None), ("nan", None), ("inf", None), ("1e999999", None), ("7 apples", None),
        ("3,4", None),
    ],
)  # fmt: skip
def test_equal_numbers_have_one_form(text: str, expected: str | None) -> None:
    assert canonical(text, "number") == expected


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 9))
def test_a_mixed_number_is_the_sum_of_its_parts(units: int, top: int, more: int) -> None:
    value = units + Fraction(top, top + more)
    for form in (f"{units} {top}/{top + more}", f"{units}\\frac{{{top}}}{{{top + more}}}"):
        assert canonical(form, "number") == str(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), ("B) a crow", "B"), ("(b): whatever", "B"),
        ("a cat", "A"), ("A CAT", "A"), ("a cat.", "A"), ("a crow.", "B"), ("A crow", "B"),
        ("D", None), ("a dog", None), ("", None),
    ],
)  # fmt: skip
def test_a_choice_is_read_by_letter_and_by_text(text: str, expected: str | None) -> None:
    assert canonical(text, "choice", ANIMALS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("yes", "yes"), ("Yes.", "yes"), ("TRUE", "yes"), ("no", "no"), ("False", "no"), ("perhaps", None), ("", None)],
)
def test_a_boolean_is_yes_or_no(text: str, expected: str | None) -> None:
    assert canonical(text, "boolean") == expected


def test_text_is_normalised_in_case_and_spacing_only() -> None:
    assert canonical("  The\n Red  Fox", "text") == "the red fox"
    assert canonical("red-fox", "text") != canonical("red fox", "text")
    assert canonical(" \n", "text") is None


@given(st.dates(date(1000, 1, 1)))
def test_every_spelling_of_a_date_has_one_form(day: date) -> None:
    written = ("%m/%d/%Y", "%Y-%m-%d", "%B %d, %Y", "%d %b %Y", "%A, %B %d, %Y", "the %dth of %B %Y")
    assert {canonical(day.strftime(form), "date") for form in written} == {day.isoformat()}


@given(st.integers(10**9, 10**12), st.integers(2, 5))
def test_a_rounded_long_decimal_is_correct_and_its_neighbours_are_not(digits: int, places: int) -> None:
    gold, step = Decimal(digits * 10 + 1).scaleb(-8), Decimal(1).scaleb(-places)
    rounded = gold.quantize(step)
    neighbour = rounded + 2 * step
    assume(rounded % (10 * step) and neighbour % (10 * step))  # 36.50 becomes 36.5, which may be rounded to fewer places
    assert grade(f"\\boxed{{{rounded}}}", True, str(gold), "number").outcome is Outcome.CORRECT
    assert grade(f"\\boxed{{{neighbour}}}", True, str(gold), "number").outcome is Outcome.WRONG


def test_a_plain_number_costs_less_than_fifty_microseconds() -> None:
    texts = [f"16 - 3 - 4 = 9, and 9 * 2 = {n}. The answer is \\boxed{{{n}}}." for n in range(2000)]
    seconds = []
    for _ in range(3):
        began = time.process_time()
        assert all(grade(text, True, str(n), "number").outcome is Outcome.CORRECT for n, text in enumerate(texts))
        seconds.append(time.process_time() - began)
    assert min(seconds) / len(texts) < 50e-6


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_text_of_endless_repetition_is_graded_quickly(fragment: str) -> None:
    """Degenerate samples look like this: patterns must not take quadratic time."""
    text = (fragment * 60_000)[:60_000]
    for kind in ANSWER_TYPES:
        began = time.process_time()
        grade(text, True, "A" if kind == "choice" else "1", kind, ANIMALS if kind == "choice" else ())
        assert time.process_time() - began < 2, kind


def test_an_unknown_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown answer type 'integer'"):
        canonical("7", "integer")


@given(answers)
def test_canonical_is_idempotent(typed: tuple[str, str]) -> None:
    kind, text = typed
    once = canonical(text, kind, ANIMALS)
    assert once is None or canonical(once, kind, ANIMALS) == once


def test_canonical_is_idempotent_for_a_long_fraction() -> None:
    once = canonical("1" * 100 + "/1", "number")
    assert once is None or canonical(once, "number") == once


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_every_spelling_of_a_number_has_one_form(value: Decimal) -> None:
    forms = [f"{value}", f"{value:,}", f"${value:,}", f"{value * 100}%", f"{value * 1000}/1000".replace(".000", "")]
    assert len({canonical(form, "number") for form in forms}) == 1


@given(answers, st.text("abc {}\\.\n", max_size=30))
def test_the_conclusion_is_always_read_back_as_boxed(typed: tuple[str, str], before: str) -> None:
    kind, text = typed
    answer = canonical(text, kind, ANIMALS)
    if answer is not None and _balanced(answer):
        assert read_answer(f"{before} {conclusion(answer)}", kind, ANIMALS) == (answer, "boxed")


@pytest.mark.parametrize("answer", ["} ]", "{ (", "[ ) }"])
def test_an_answer_of_brackets_is_read_back_from_its_conclusion(answer: str) -> None:
    assert grade(conclusion(answer), True, answer, "text").outcome is Outcome.CORRECT


@given(anything, st.booleans(), st.sampled_from(ANSWER_TYPES))
def test_no_text_makes_grading_raise(text: str, finished: bool, kind: str) -> None:
    graded = grade(text, finished, "A", kind, ANIMALS)
    assert (graded.answer is None) == (graded.outcome in (Outcome.UNPARSED, Outcome.TRUNCATED))
    assert (graded.rule in (None, KILLED)) == (graded.answer is None)


def test_a_very_long_number_does_not_make_grading_raise() -> None:
    for text in ("0." + "3" * 5000, "\\boxed{" + "3" * 5000 + "/7}", "\\boxed{0." + "3" * 5000 + "}"):
        assert grade(text, False, "1/3", "number").outcome in (Outcome.TRUNCATED, Outcome.WRONG)


def test_more_choices_than_letters_do_not_make_grading_raise() -> None:
    choices = [f"thing {number}" for number in range(30)]
    assert grade("\\boxed{thing 29}", True, "A", "choice", choices).outcome in (Outcome.WRONG, Outcome.UNPARSED)


@pytest.mark.parametrize(
    ("text", "kind", "answer", "rule"),
    [
        ("so \\boxed{7}", "number", "7", "boxed"),
        ("\\boxed{7} no, \\boxed {8}.", "number", "8", "boxed"),
        ("\\boxed{8} and then \\boxed{9", "number", "8", "boxed"),
        ("answer is 3. \\boxed{8} or 9", "number", "8", "boxed"),
        ("\\boxed{a {b} {c{d}}} e", "text", "a {b} {c{d}}", "boxed"),
        ("\\boxed{seven}, that is 7", "number", "7", "boxed"),
        ("\\boxed{many}, that is 7", "number", None, None),
        ("The answer is 5. The answer is 1,000.", "number", "1000", "stated"),
        ("Answer: $12.50 each", "number", "25/2", "stated"),
        ("The answer is (b), a crow", "choice", "B", "stated"),
        ("the answer is a newt", "choice", "C", "stated"),
        ("The answer is Paris.", "text", "paris", "stated"),
        ("answer = true", "boolean", "yes", "stated"),
        ("2+5 makes 7, as said", "number", "7", "last"),
        ("it rose by 75%", "number", "3/4", "last"),
        ("yes, no, YES", "boolean", "yes", "last"),
        ("either (A) or (C)", "choice", None, None),
        ("I do not know", "number", None, None),
        ("the capital is Paris", "text", None, None),
        ("", "number", None, None),
    ],
)
def test_an_answer_is_read_by_the_first_rule_that_applies(text: str, kind: str, answer: str | None, rule: str | None) -> None:
    assert read_answer(text, kind, ANIMALS if kind == "choice" else ()) == (answer, rule)


@pytest.mark.parametrize(
    ("text", "finished", "outcome"),
    [
        ("so \\boxed{7}.", True, Outcome.CORRECT),
        ("so \\boxed{7.00}. And", False, Outcome.CORRECT),
        ("so \\boxed{8}. And", False, Outcome.WRONG),
        ("so \\boxed{8}.", True, Outcome.WRONG),
        ("The answer is 7", False, Outcome.TRUNCATED),
        ("so \\boxed{7", False, Outcome.TRUNCATED),
        ("\\boxed{many}", False, Outcome.TRUNCATED),
        ("\\boxed{many}", True, Outcome.UNPARSED),
        ("no idea", True, Outcome.UNPARSED),
    ],
)
def test_the_four_outcomes_are_never_merged(text: str, finished: bool, outcome: Outcome) -> None:
    assert grade(text, finished, "7", "number").outcome is outcome
