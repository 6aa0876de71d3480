from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.questions.procedural import (
    ID_FAMILIES,
    OOD_FAMILIES,
    Problem,
    ask,
    distinct,
    draw,
    question_id,
    running,
    solve,
    split_of,
)

FAMILIES = (*ID_FAMILIES, *OOD_FAMILIES)
problems = st.builds(lambda family, seed: draw(family, random.Random(seed)), st.sampled_from(FAMILIES), st.integers(0, 10**6))


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_share_no_question_whatever_their_seeds(family: str) -> None:
    ids = {
        split: {question_id(item) for seed in (0, 1) for item in distinct(family, split, 40, seed)}  # type: ignore[arg-type]
        for split in ("train", "dev", "test")
    }
    assert not ids["train"] & ids["dev"]
    assert not ids["train"] & ids["test"]
    assert not ids["dev"] & ids["test"]


@pytest.mark.parametrize("family", FAMILIES)
def test_distinct_questions_have_distinct_ids_and_texts_and_repeat(family: str) -> None:
    found = list(distinct(family, "train", 60, 3))
    assert len({question_id(item) for item in found}) == len({ask(item) for item in found}) == 60
    assert list(distinct(family, "train", 60, 3)) == found
    assert list(distinct(family, "train", 60, 4)) != found


@given(problems)
def test_different_problems_have_different_question_texts(problem: Problem) -> None:
    again = draw(problem.family, random.Random(1))
    assert (ask(problem) == ask(again)) == (problem == again)


def test_the_split_is_about_eighty_ten_ten() -> None:
    rng = random.Random(0)
    splits = [split_of(draw("dial", rng)) for _ in range(2000)]
    assert 1500 < splits.count("train") < 1700
    assert 140 < splits.count("dev") < 260


def test_ids_and_splits_never_change() -> None:
    problem = Problem("dial", start=7, turns=(5, -3))
    assert ask(problem) == "A dial with ten marks reads [7]. Turn it +5, -3. What does it read?"
    assert (question_id(problem), split_of(problem)) == ("miniature/dial/8835d922638c", "test")


@pytest.mark.parametrize(
    ("problem", "answer"),
    [
        (Problem("dial", start=7, turns=(5, -3)), "9"),
        (Problem("dial_long", start=0, turns=(-1, -1, -1, 9, 9)), "5"),
        (Problem("lift", start=2, turns=(-9, 4)), "7"),
        (Problem("belt", start=9, turns=(9, 9, 3)), "0"),
        (Problem("tram", start=1, turns=(-2,)), "9"),
        (Problem("largest", items=("3", "9", "0")), "9"),
        (Problem("count", items=("a", "b", "a", "c"), target="a"), "2"),
        (Problem("reverse", items=("a", "b", "c")), "c-b-a"),
    ],
)
def test_answers_are_exact(problem: Problem, answer: str) -> None:
    assert solve(problem) == answer


@given(st.integers(0, 9), st.lists(st.integers(-9, 9), max_size=6))
def test_the_dial_runs_modulo_ten(start: int, turns: list[int]) -> None:
    values = running(start, tuple(turns))
    assert values == [(start + sum(turns[: count + 1])) % 10 for count in range(len(turns))]
