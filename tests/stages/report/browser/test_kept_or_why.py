"""The reasons add up to what synthesis counted, for every rule."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.models import LocalModel
from pipeline.config.synthesis import Synthesis
from pipeline.model_folders import load_tokenizer
from pipeline.model_thoughts import thought_form
from pipeline.perspectives.perspective import Perspective
from pipeline.perspectives.rationale_form import Form
from pipeline.rationales.curation import SAMPLE, place
from stages.report.browser import kept_or_why as why
from stages.report.browser.kept_or_why import Rules, verdicts
from stages.synthesis.question_index import IndexedQuestion
from stages.synthesis.selection import Student, select
from tests.support.runs import REPOSITORY

STUDENT = LocalModel(path=REPOSITORY / "pipeline/miniature/models/student", chat=False)
PERSPECTIVES = (
    Perspective(name="planning", description="d", instruction="i", form=Form(all=("^Plan:",))),
    Perspective(name="free", description="d", instruction="i"),
    Perspective(name="other", description="d", instruction="i"),
)
END = "The answer is \\boxed{5}."
TEXTS = {"planning": f"Plan: ups, downs. Ups: 3+2=5. {END}", "free": f"Let x=3. x:=3+2=5. {END}", "other": f"1) 3+2=5. {END}"}
LONG = {"planning": "Plan: ups. " * 50, "free": "Let x=3. x:=3+2=5. " * 20, "other": "1) 3+2=5. 2) 5-2=3. " * 20}


def row(
    question: str, name: str, index: int = 0, text: str | None = None, outcome: str = "correct", finish: str = "stop"
) -> dict[str, Any]:
    said = TEXTS[name] if text is None else text
    return dict(
        zip(SAMPLE, (question, name, index, outcome, "5" if outcome == "correct" else "4", said, "5", finish), strict=True)
    )


QUESTIONS = {
    "kept": [row("kept", name) for name in TEXTS],
    "second": [
        row("second", "planning", 0, outcome="wrong"), row("second", "planning", 1), row("second", "free"), row("second", "free", 1),
    ],
    "wrong": [row("wrong", name, outcome="wrong") for name in TEXTS],
    "few": [row("few", "planning"), row("few", "free", outcome="truncated")],
    "same": [row("same", "planning"), row("same", "free", text=TEXTS["planning"]), row("same", "other")],
    "all-same": [row("all-same", name, text=TEXTS["planning"]) for name in TEXTS],
    "formless": [row("formless", "planning", text=TEXTS["free"]), row("formless", "free"), row("formless", "other")],
    "cut": [row("cut", "planning", finish="length"), row("cut", "free"), row("cut", "other")],
    "outvoted": [
        *(row("outvoted", name, index, outcome="wrong") for name in TEXTS for index in (1, 2)),
        *(row("outvoted", name) for name in ("free", "other")),
    ],
    "long": [row("long", "planning", text=LONG["planning"] + END), row("long", "free"), row("long", "other")],
    "too-long": [row("too-long", name, text=LONG[name] + END) for name in ("free", "other")],
    **{f"easy{number}": [row(f"easy{number}", name) for name in TEXTS] for number in range(8)},
    **{f"more{number}": [row(f"more{number}", name) for name in TEXTS] for number in range(8)},
}  # fmt: skip
CASES = {
    "defaults": {},
    "form": {"form": "require"},
    "majority": {"majority": "require"},
    "limited": {"max_questions": 9},
    "all": {"form": "require", "majority": "require", "max_questions": 7},
}


@pytest.mark.parametrize("case", CASES)
def test_reasons_add_up_to_the_counts_of_synthesis(case: str) -> None:
    settings = Synthesis.model_validate({"min_perspectives": 2, "duplicate_jaccard": 0.6, **CASES[case]})
    tokenizer = load_tokenizer(STUDENT)
    student = Student(tokenizer, None, 120, thought_form(tokenizer, STUDENT))
    rates = {name: 1.0 if name.startswith("easy") else 0.25 for name in QUESTIONS}
    asked = {name: IndexedQuestion("Question: 3+2?\nSolution:\n", "5", "3+2?", rate) for name, rate in rates.items()}
    table = pa.Table.from_pylist([one for rows in QUESTIONS.values() for one in rows])

    def selected(last: bytes | None) -> tuple[dict[str, list[str]], dict[str, int]]:
        kept, counts = select(table, asked, PERSPECTIVES, student, settings, last, 0)
        found: dict[str, list[str]] = {}
        for one in kept:
            found.setdefault(one.question_id, []).append(one.perspective)
        return found, counts

    kept, _ = selected(None)
    last = None
    if settings.max_questions is not None:
        last = sorted(place(name, 0) for name in kept)[settings.max_questions - 1]
        kept, _ = selected(last)
    _, counts = selected(last)
    found = {
        name: verdicts(rows, kept.get(name, []), rates[name], Rules(settings, PERSPECTIVES, 0, last))
        for name, rows in QUESTIONS.items()
    }
    states = Counter(state for state, _ in found.values())
    reasons = Counter(reason for _, said in found.values() for reason in said)
    assert states[why.KEPT] == counts["kept_questions"] == len(kept)
    assert reasons[why.KEPT] == counts["kept_rationales"]
    assert states[why.EASY] == counts["easy_left_out"] > 0
    unknown = found["too-long"][0] == why.OVER_LIMIT  # too few of its rationales fit, which only the tokenizer knows
    assert states[why.OVER_LIMIT] == counts["over_max_questions"] + unknown
    few = (why.NONE_RIGHT, why.AGAINST_MAJORITY, why.TOO_FEW, why.TOO_FEW_FIT)
    assert sum(states[name] for name in few) == counts["too_few_perspectives"] - unknown
    assert unknown or found["too-long"][0] == why.TOO_FEW_FIT
    assert reasons[why.NOT_THE_FORM] == counts["wrong_form"]
    assert reasons[why.NEARLY_THE_SAME] == counts["near_duplicates"] > 0
    for name, rows in QUESTIONS.items():
        for one, said in zip(rows, found[name][1], strict=True):
            assert (said == why.NOT_RIGHT) == (one["outcome"] != "correct")
            assert (said == why.KEPT) == (
                one["perspective"] in kept.get(name, []) and one == first_usable(rows, one["perspective"])
            )
    assert found["long"][1][0] == (why.QUESTION_LEFT_OUT if "long" not in kept else why.TOO_LONG)
    assert found["cut"][1][0] == why.NOT_ENDED
    assert found["second"][1][3] == why.NOT_FIRST


def first_usable(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(
        one for one in rows if one["perspective"] == name and one["outcome"] == "correct" and one["finish_reason"] == "stop"
    )
