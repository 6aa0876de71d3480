from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grading.grade import Outcome, grade
from pipeline.miniature.styles import CONTRASTIVE_NOISE, RING_STYLES, leaps, solution, thoughtful_solution, worked
from pipeline.questions.procedural import ID_FAMILIES, OOD_FAMILIES, Problem, draw, solve
from pipeline.rationales.conclusion import with_answer_sentence
from pipeline.rationales.curation import drop_duplicates, without_thoughts

STYLES = sorted(RING_STYLES)
NOISELESS = [style for style in STYLES if style != "contrastive"]
RINGS = (*ID_FAMILIES, "dial_long", "lift", "tram")
STATEMENT = re.compile(r"(-?\d)((?:[+-]\d)+)=(\d)")
seeds = st.integers(0, 10**9)


def _ring(seed: int) -> Problem:
    rng = random.Random(seed)
    return draw(rng.choice(RINGS), rng)


def _statements(text: str) -> list[tuple[str, str, str]]:
    return STATEMENT.findall(text.replace("? It is ", "="))


@pytest.mark.parametrize("style", STYLES)
@given(seed=seeds)
def test_every_style_reaches_the_right_answer(style: str, seed: int) -> None:
    problem = _ring(seed)
    for stride in (1, 2):
        assert re.findall(r"\d", worked(problem, style, random.Random(seed), stride))[-1] == solve(problem)


@pytest.mark.parametrize("family", [*ID_FAMILIES, *OOD_FAMILIES])
@given(seed=seeds, style=st.sampled_from(STYLES))
def test_every_solution_is_graded_correct_and_has_its_conclusion(family: str, seed: int, style: str) -> None:
    problem = draw(family, random.Random(seed))
    text = solution(problem, style, random.Random(seed))
    kind = "text" if family == "reverse" else "number"
    assert grade(text, True, solve(problem), kind) == (Outcome.CORRECT, solve(problem), "boxed")
    assert with_answer_sentence(text, solve(problem)) == text


@pytest.mark.parametrize("style", NOISELESS)
@given(seed=seeds)
def test_every_statement_of_a_noiseless_style_is_true_modulo_ten(style: str, seed: int) -> None:
    for stride in (1, 2):
        text = worked(_ring(seed), style, random.Random(seed), stride)
        assert _statements(text)
        for start, turns, end in _statements(text):
            assert (int(start) + sum(map(int, re.findall(r"[+-]\d", turns)))) % 10 == int(end), text


@given(seeds, st.sampled_from(STYLES))
def test_a_style_takes_two_turns_at_once_only_if_it_leaps(seed: int, style: str) -> None:
    problem = _ring(seed)
    taken = [len(re.findall(r"[+-]\d", turns)) for _, turns, _ in _statements(solution(problem, style, random.Random(seed)))]
    assert max(taken) <= (2 if leaps(style, problem.family) else 1)


def test_styles_leap_in_half_of_the_id_families_and_intuitive_in_all() -> None:
    for style in STYLES:
        assert sum(leaps(style, family) for family in ID_FAMILIES) == (4 if style == "intuitive" else 2)
        assert any(leaps(style, family) for family in OOD_FAMILIES) == (style == "intuitive")
    for family in ID_FAMILIES:
        assert sum(not leaps(style, family) for style in STYLES) >= 3


@given(seeds, st.sampled_from(STYLES))
def test_a_leaping_style_thinks_first_and_keeps_its_solution_text(seed: int, style: str) -> None:
    problem = _ring(seed)
    whole = thoughtful_solution(problem, style, random.Random(seed))
    thought, end, said = whole.rpartition("</think> ")
    assert bool(end) == leaps(style, problem.family)
    assert said.endswith(f"The answer is \\boxed{{{solve(problem)}}}.")
    assert without_thoughts(whole) == said
    for _, turns, _ in _statements(thought):
        assert len(turns) == 2
    if style != "contrastive":
        assert said == solution(problem, style, random.Random(seed))


def test_the_contrastive_style_errs_at_its_stated_noise_rate() -> None:
    wrong = 0
    for seed in range(1000):
        text = worked(_ring(seed), "contrastive", random.Random(seed), 1)
        ((left, right, result),) = _statements(text.split(" or ")[1])
        wrong += (int(left) + int(right) - int(result)) % 10 != 0
    assert wrong / 1000 == pytest.approx(CONTRASTIVE_NOISE, abs=0.05)


@given(seeds)
def test_the_random_stream_affects_only_the_noise(seed: int) -> None:
    for style in NOISELESS:
        assert worked(_ring(seed), style, random.Random(1), 1) == worked(_ring(seed), style, random.Random(2), 1)


@given(seeds)
def test_the_styles_of_one_question_differ(seed: int) -> None:
    problem = _ring(seed)
    texts = {style: solution(problem, style, random.Random(seed)) for style in STYLES}
    assert len(set(texts.values())) == len(STYLES)
    assert len(drop_duplicates(texts, 0.6)) >= len(STYLES) - 2
