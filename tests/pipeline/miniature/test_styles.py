from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grading import Outcome, grade
from pipeline.miniature.families import ID_FAMILY, OOD_FAMILIES, Problem, draw, solve
from pipeline.miniature.styles import CONTRASTIVE_NOISE, DIAL_STYLES, solution, worked
from pipeline.rationales import concluded, drop_duplicates

STYLES = sorted(DIAL_STYLES)
NOISELESS = [style for style in STYLES if style != "contrastive"]
STATEMENT = re.compile(r"(-?\d+)([+-]\d+)=(-?\d+)(?:=(\d))?")
seeds = st.integers(0, 10**9)


def _dial(seed: int) -> Problem:
    rng = random.Random(seed)
    return draw(rng.choice(["dial", "dial_long", "lift"]), rng)


@pytest.mark.parametrize("style", STYLES)
@given(seed=seeds)
def test_every_style_reasons_its_way_to_the_right_answer(style: str, seed: int) -> None:
    problem = _dial(seed)
    reasoning = worked(problem, style, random.Random(seed))
    assert re.findall(r"\d", reasoning)[-1] == solve(problem)


@pytest.mark.parametrize("family", [ID_FAMILY, *OOD_FAMILIES])
@given(seed=seeds, style=st.sampled_from(STYLES))
def test_every_solution_is_graded_correct_and_is_concluded_already(family: str, seed: int, style: str) -> None:
    problem = draw(family, random.Random(seed))
    text = solution(problem, style, random.Random(seed))
    kind = "text" if family == "reverse" else "number"
    assert grade(text, True, solve(problem), kind) == (Outcome.CORRECT, solve(problem), "boxed")
    assert concluded(text, solve(problem)) == text


@pytest.mark.parametrize("style", NOISELESS)
@given(seed=seeds)
def test_every_statement_of_a_style_without_noise_is_true_modulo_ten(style: str, seed: int) -> None:
    text = worked(_dial(seed), style, random.Random(seed))
    statements = STATEMENT.findall(text.replace("? It is ", "="))
    assert statements or style == "intuitive"
    for left, right, result, reduced in statements:
        assert (int(left) + int(right) - int(result)) % 10 == 0, text
        assert not reduced or int(result) % 10 == int(reduced), text


@given(seeds)
def test_an_intuitive_leap_lands_where_the_turns_lead(seed: int) -> None:
    for start, turns, end in re.findall(
        r"from (\d) go ([+\-\d]+), about (\d)", worked(_dial(seed), "intuitive", random.Random())
    ):
        assert (int(start) + sum(map(int, re.findall(r"[+-]\d", turns)))) % 10 == int(end)


def test_the_contrastive_style_is_wrong_in_the_middle_as_often_as_it_says() -> None:
    wrong = 0
    for seed in range(1000):
        ((left, right, result, _),) = STATEMENT.findall(
            worked(_dial(seed), "contrastive", random.Random(seed)).split(" or ")[1]
        )  # fmt: skip
        wrong += (int(left) + int(right) - int(result)) % 10 != 0
    assert wrong / 1000 == pytest.approx(CONTRASTIVE_NOISE, abs=0.06)


@given(seeds)
def test_noise_is_all_that_the_random_stream_decides(seed: int) -> None:
    for style in NOISELESS:
        assert worked(_dial(seed), style, random.Random(1)) == worked(_dial(seed), style, random.Random(2))


def test_the_styles_of_one_question_differ() -> None:
    problem = Problem("dial", start=7, turns=(5, -3, 4))
    texts = {style: solution(problem, style, random.Random(0)) for style in STYLES}
    assert len(drop_duplicates(texts, 0.6)) == 8
