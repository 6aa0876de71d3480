"""A model's text has its whole thought, whatever its prompt began, and by whatever marks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel, ServedModel
from pipeline.generation import open_engine as opening
from pipeline.generation.engine import Completion, Decoding
from pipeline.grading.grade import Outcome, grade
from pipeline.grading.wording.thoughts import END, START, behind_thoughts
from pipeline.model_thoughts import PromptEnd, special_marks, whole_text, without_other_tokens
from tests.support.models import build_tokenizer

OPENING = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[ai]<think>\n{% endif %}"
)


@pytest.mark.parametrize(
    ("said", "before", "whole"),
    [
        ("It is 7.", "free", "It is 7."),
        ("Is it 8? No.</think>It is 7.", "free", f"{START}\nIs it 8? No.</think>It is 7."),
        ("Is it 8? No.</think>It is 7.", "opened", f"{START}\nIs it 8? No.</think>It is 7."),
        ("Is it 8? \\boxed{7}", "opened", f"{START}\nIs it 8? \\boxed{{7}}"),
        ("<think>\nIs it 8?</think>It is 7.", "opened", "<think>\nIs it 8?</think>It is 7."),
        ("[THINK]Is it 8?[/THINK]It is 7.", "free", "[THINK]Is it 8?[/THINK]It is 7."),
        ("Is it 8?[/THINK]It is 7.", "free", f"{START}\nIs it 8?[/THINK]It is 7."),
        ("It is 7.", "closed", "It is 7."),
        ("", "opened", ""),
    ],
)
def test_a_thought_that_the_prompt_began_has_its_start(said: str, before: PromptEnd, whole: str) -> None:
    assert whole_text(said, before) == whole
    assert whole_text(whole, before) == whole


@given(st.text(), st.sampled_from(["free", "closed"]))
def test_a_text_without_thoughts_stays_as_it_is(text: str, before: PromptEnd) -> None:
    assert whole_text(text, before) == text


def test_custom_marks_are_read_as_any_others() -> None:
    text = whole_text("<plan>8? \\boxed{8}</plan>It is \\boxed{7}.", "free", ("<plan>", "</plan>"))
    assert text == f"{START}8? \\boxed{{8}}{END}It is \\boxed{{7}}."
    assert behind_thoughts(text) == "It is \\boxed{7}."


class _Cut:
    """A model that is cut off in its thought."""

    def generate(self, prompts: Sequence[object], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        return [Completion("It is \\boxed{7}. Or", "length", 1, 9, None) for _ in prompts]


@pytest.mark.parametrize("served", [True, False])
def test_a_box_in_a_thought_that_the_prompt_began_is_no_answer(
    tmp_path: Path, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine alone is replaced, since no model here thinks on request."""
    monkeypatch.setattr(opening, "_opened", lambda *_: nullcontext(_Cut()))
    build_tokenizer(tmp_path, chat_template=OPENING)
    model = ServedModel(served=True, opens_thought=True) if served else LocalModel(path=tmp_path)
    with opening.open_engine(EngineConfig(), model) as engine:
        (said,) = engine.generate(["3+4?"], [0], Decoding(0.0, 1.0, 9))
    assert said.text.startswith(START)
    assert grade(said.text, False, "7", "number").outcome is Outcome.TRUNCATED


def test_marks_that_are_special_tokens_are_not_lost_in_decoding(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path, extra_special_tokens=["[THINK]", "[/THINK]", "<plan>", "[CALL]"])
    kept = special_marks(tokenizer, ("<plan>", "</plan>"))
    assert kept == {"[THINK]", "[/THINK]", "<plan>"}
    ids = tokenizer("[THINK]8?[/THINK][CALL]It is 7.", add_special_tokens=False)["input_ids"]
    text = without_other_tokens(tokenizer, tokenizer.decode(ids), kept)
    assert text.replace(" ", "") == "[THINK]8?[/THINK]Itis7."


def test_a_tokenizer_without_such_tokens_is_decoded_as_usual(tmp_path: Path) -> None:
    assert special_marks(build_tokenizer(tmp_path), None) == frozenset()
