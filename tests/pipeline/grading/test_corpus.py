"""Grades every case of `corpus.yaml` and `adversarial.yaml`: a model's text and the outcome that a person decided."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.grading.grade import canonical, grade

FOLDER = Path(__file__).parent


def _cases(name: str) -> Iterator[Any]:
    for section in yaml.safe_load((FOLDER / name).read_text(encoding="utf-8")):
        for case in section.pop("cases"):
            merged = {"finished": True, "choices": (), "lost": False, **section, **case}
            said = case.get("why") or f"{case['text'][:60]} for {case['gold']}"
            yield pytest.param(merged, id=f"{section['section']}: {said}")


CASES = list(_cases("corpus.yaml"))
ADVERSARIAL = list(_cases("adversarial.yaml"))


@pytest.mark.parametrize("case", [*CASES, *ADVERSARIAL])
def test_the_grade_of_a_case_is_what_a_person_decided(case: dict[str, Any]) -> None:
    graded = grade(case["text"], case["finished"], case["gold"], case["answer_type"], case["choices"])
    assert (graded.outcome, graded.rule) == (case["outcome"], case["rule"])


def test_the_cases_are_distinct_and_their_gold_answers_are_valid() -> None:
    cases = [item.values[0] for item in CASES]
    asked = [(case["text"], case["gold"], case["answer_type"], tuple(case["choices"]), case["finished"]) for case in cases]
    assert len(cases) >= 300
    assert len(set(asked)) == len(asked)
    assert len({case["why"] for case in cases}) > 0.95 * len(cases)
    for case in cases:
        assert canonical(case["gold"], case["answer_type"], case["choices"]) is not None, case


def test_lost_cases_are_never_correct() -> None:
    assert not [case for item in CASES if (case := item.values[0])["lost"] and case["outcome"] == "correct"]


def test_every_gold_answer_of_an_adversarial_text_is_valid() -> None:
    cases = [item.values[0] for item in ADVERSARIAL]
    assert len(cases) >= 400
    for case in cases:
        if case["outcome"] != "wrong":
            assert canonical(case["gold"], case["answer_type"], case["choices"]) is not None, case
