"""The form in which a student is trained follows from its own losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.errors import ModelError
from pipeline.student import self_check
from pipeline.student.attention import ROWS
from pipeline.student.self_check import Form, right_form
from tests.support.architectures.sizes import EXCEPTIONS, NARROW, VARIANTS, WIDE
from tests.support.architectures.sweep import QUESTION, build


def student(name: str, window: int = WIDE) -> torch.nn.Module:
    kind, more = VARIANTS.get(name, (name, {}))
    found: torch.nn.Module = build(kind, window, EXCEPTIONS.get(kind, {}) | more)
    return found.train()


def test_a_student_with_plain_attention_is_packed(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    assert right_form(model, QUESTION, 0, "rows") == Form("rows", own_head=False)
    assert model.config._attn_implementation == ROWS


@pytest.mark.parametrize("name", ["lfm2", "qwen3_next", "stablelm"])
def test_a_student_that_mixes_tokens_elsewhere_is_padded_with_its_own_attention(name: str) -> None:
    model = student(name)
    plain = model.config._attn_implementation
    form = right_form(model, QUESTION, 0, "rows")
    assert form.packing == "none"
    assert "other losses than rows alone" in form.reason
    assert model.config._attn_implementation == plain
    assert model.training


def test_a_window_is_packed_where_the_attention_is_told_of_it() -> None:
    assert right_form(student("mistral", NARROW), QUESTION, 0, "rows").packing == "rows"
    assert right_form(student("qwen2_moe", NARROW), QUESTION, 0, "rows").packing == "none"


@pytest.mark.parametrize("name", ["falcon_h1 + lm_head_multiplier", "cohere", "recurrent_gemma", "llama4_text"])
def test_a_head_that_is_more_than_a_projection_computes_its_own_logits(name: str) -> None:
    assert right_form(student(name), QUESTION, 0, "none") == Form("none", own_head=True)


@pytest.mark.parametrize("name", ["llama + dynamic rope", "phi3 + longrope"])
def test_a_student_whose_losses_depend_on_the_batch_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"has other losses in a padded batch than alone, by .* use another student"):
        right_form(student(name), QUESTION, 0, "rows")


def test_an_encoder_and_decoder_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="ProphetNetForCausalLM does not take token ids alone"):
        right_form(student("prophetnet"), QUESTION, 0, "rows")


def test_rows_that_a_cpu_would_take_too_long_for_are_cut(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    monkeypatch.setattr(self_check, "WORK", 0)
    monkeypatch.setattr(self_check, "SHORT", 4)
    cut = self_check._affordable(model, QUESTION)
    assert [row.tokens for row in cut] == [row.tokens[2:10] for row in QUESTION]
    assert right_form(model, QUESTION, 0, "rows").packing == "rows"
