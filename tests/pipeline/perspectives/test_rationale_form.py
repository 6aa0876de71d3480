"""Perspective forms: the shipped patterns match their texts, and bad user patterns are refused or cannot hang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.perspectives.perspective import load_perspectives
from pipeline.perspectives.rationale_form import Form
from pipeline.rationales.conclusion import with_answer_sentence
from pipeline.rationales.curation import reasoning

# `yes` and `no` are strings here, not booleans.
TEXTS = yaml.load((Path(__file__).parent / "forms.yaml").read_text(), yaml.BaseLoader)  # noqa: S506 - makes strings only
CASES = [
    pytest.param(name, text, verdict == "yes", id=f"{name}, {verdict}: {title}")
    for name, verdicts in TEXTS.items()
    for verdict, texts in verdicts.items()
    for title, text in texts.items()
]
FORMS = {item.name: item.form for item in load_perspectives(None)}


def fits(name: str, text: str) -> bool:
    form = FORMS[name]
    assert form is not None
    return form.fits(reasoning(text))


@pytest.mark.parametrize(("name", "text", "expected"), CASES)
def test_a_form_ignores_line_ends_thoughts_and_the_conclusion(name: str, text: str, expected: bool) -> None:
    assert fits(name, text) is expected
    assert fits(name, text.replace("\n", "\r\n")) is expected
    assert fits(name, f"<think>\nPlan: Q: A: Let (1) = (2)\n</think>\n\n{text}") is expected
    assert fits(name, str(with_answer_sentence(text, "16"))) is expected


def test_forms_have_three_texts_of_each_kind_and_do_not_overlap() -> None:
    assert set(TEXTS) == set(FORMS)
    for name, verdicts in TEXTS.items():
        assert {verdict: len(texts) >= 3 for verdict, texts in verdicts.items()} == {"yes": True, "no": True}
        for other in set(FORMS) - {name, "intuitive"}:  # the intuitive form mostly lists what must not appear
            assert not any(fits(other, text) for text in verdicts["yes"].values()), (name, other)


def with_form(folder: Path, form: Any) -> Path:
    path = folder / "mine.yaml"
    mine = {"version": 1, "perspectives": [{"name": "plain", "description": "d", "instruction": "i", "form": form}]}
    path.write_text(yaml.safe_dump(mine))
    return path


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"all": ["(a"]}, r"perspectives\.0\.form: '\(a' is not a valid RE2 pattern.*missing \)"),
        ({"none": [r"(a)\1"]}, "is not a valid RE2 pattern.*no back-references"),
        ({"all": ["(?=a)"]}, "is not a valid RE2 pattern; RE2 has no look-around"),
        ({"all": ["((a{1000}){1000}){1000}"]}, "is not a valid RE2 pattern.*invalid repetition size"),
        ({"al": ["a"]}, r"perspectives\.0\.form\.al: unknown key; did you mean 'all'"),
        ({"all": "a"}, r"perspectives\.0\.form\.all: .*tuple"),
        ({"all": [1]}, r"perspectives\.0\.form\.all\.0: .*string"),
        ({}, "a form without patterns; add patterns under all or none, or remove the form"),
    ],
)
def test_a_malformed_form_is_refused_in_one_line(tmp_path: Path, form: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        load_perspectives(with_form(tmp_path, form))
    assert str(raised.value).startswith(f"{tmp_path}/mine.yaml: ")
    assert "\n" not in str(raised.value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(.*a){20}c", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_no_pattern_hangs(pattern: str) -> None:
    assert not Form(all=(pattern, "never")).fits("a" * 100_000 + "!")


@given(st.lists(st.sampled_from(["Plan:", "plan", "x", "Q: a"]), max_size=5).map("\n".join))
def test_a_form_needs_every_all_pattern_and_no_none_pattern(text: str) -> None:
    form = Form(all=("^plan", "x"), none=("^Q:",))
    assert form.fits(text) is ("plan" in text.casefold() and "x" in text and "Q:" not in text)
