"""Every causal architecture of transformers is trained right, or refused; docs/students.md lists them."""

from __future__ import annotations

import pytest

from tests.support.architectures.sizes import TIES
from tests.support.architectures.sweep import NAMES, PAGE, Verdict, page, run_all


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    return list(run_all(NAMES))


def test_every_architecture_is_right_in_its_form_or_refused(verdicts: list[Verdict]) -> None:
    assert [item for item in verdicts if item.error and item.name not in TIES] == []
    assert {item.name for item in verdicts} == set(NAMES)


def test_students_that_people_use_are_trained(verdicts: list[Verdict]) -> None:
    trained = {item.name for item in verdicts if item.wide in ("packed", "padded") and item.narrow != "refused"}
    assert trained >= {
        "llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5", "qwen3_5_text", "lfm2", "gemma2", "gemma3",
        "gemma3_text", "gpt_oss", "phi3", "falcon_h1 + lm_head_multiplier", "recurrent_gemma", "llama4_text", "deepseek_v3",
        "granitemoehybrid", "mamba2",
    }  # fmt: skip


def test_the_page_of_students_is_current(verdicts: list[Verdict]) -> None:
    assert PAGE.read_text() == page(verdicts), "run: python -m tests.support.architectures.sweep"
