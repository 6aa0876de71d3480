"""Memory estimates from model shapes: right for known models, and each setting has its documented effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma3Config, Qwen2Config

from pipeline.capacity.estimate import LOGITS, MOST_LOGITS, ModelShape, serving, shape_of_model, training_bytes
from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel
from pipeline.config.soft_targets import OnPolicy
from pipeline.config.training import Lora, Training
from pipeline.model_folders import check_weights

QWEN = ModelShape(1_543_714_304, 1_000_000, 28, 1536, 12, 2 * 28 * 2 * 128, "bfloat16", 151_936)
STATES = ("weights", "gradients", "optimiser")


def training(**changes: Any) -> Training:
    found = {"ranks": 1, "zero_stage": 1, "questions_per_micro_batch": 1, "questions_per_step": 64, **changes}
    return Training.model_validate(found)


def test_the_shape_matches_the_published_model(tmp_path: Path) -> None:
    Qwen2Config(
        hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
        vocab_size=151_936, tie_word_embeddings=True, dtype="bfloat16",
    ).save_pretrained(tmp_path)  # fmt: skip
    found = shape_of_model(LocalModel(path=tmp_path))
    assert found.parameters == QWEN.parameters
    assert found.cached == QWEN.cached
    assert (found.layers, found.hidden, found.dtype) == (28, 1536, "bfloat16")


def test_the_shape_of_a_nested_language_model_is_read_and_its_weights_fit(tmp_path: Path) -> None:
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    image = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    shape = {**text, "num_key_value_heads": 1, "head_dim": 16}
    whole = Gemma3Config(text_config=shape, vision_config={**image, "patch_size": 14})
    AutoModelForCausalLM.from_config(whole, dtype=torch.float32).save_pretrained(tmp_path)
    found = shape_of_model(LocalModel(path=tmp_path))
    assert (found.layers, found.hidden, found.heads, found.cached) == (2, 32, 2, 2 * 2 * 1 * 16)
    assert check_weights(tmp_path) is None


def test_one_rank_holds_16_bytes_per_parameter_in_fp32_and_20_in_bf16() -> None:
    for precision, expected in (("fp32", 16), ("bf16", 20)):
        found = training_bytes(QWEN, training(precision=precision, zero_stage=1), 8)
        assert sum(found[name] for name in STATES) == expected * QWEN.parameters


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from(["fp32", "bf16"]))
def test_each_zero_stage_shards_one_more_part(ranks: int, precision: str) -> None:
    alone = training_bytes(QWEN, training(ranks=1, zero_stage=1, precision=precision), 8)
    for stage in range(1 if precision == "bf16" else 0, 4):
        parts = training_bytes(QWEN, training(ranks=ranks, zero_stage=stage, precision=precision), 8)
        for least, name in ((1, "optimiser"), (2, "gradients"), (3, "weights")):
            assert parts[name] == alone[name] // (ranks if stage >= least else 1)


def test_offloaded_states_count_as_host_memory() -> None:
    here = training_bytes(QWEN, training(zero_stage=3, ranks=4), 8)
    away = training_bytes(QWEN, training(zero_stage=3, ranks=4, offload="all"), 8)
    assert away["host"] == here["optimiser"] + here["weights"]
    assert "optimiser" not in away
    assert sum(away.values()) == sum(here.values())


def test_lora_and_gradient_checkpointing_need_less_memory() -> None:
    plain = training_bytes(QWEN, training(), 8)
    adapted = training_bytes(QWEN, training(lora=Lora(rank=16)), 8)
    assert adapted["optimiser"] < plain["optimiser"] / 10
    assert adapted["weights"] == plain["weights"]
    checkpointed = training_bytes(QWEN, training(gradient_checkpointing=True), 8)
    assert checkpointed["activations"] < plain["activations"] / 8
    assert plain["logits"] == checkpointed["logits"] == LOGITS


def test_the_teacher_of_own_texts_is_beside_the_student() -> None:
    policy = OnPolicy(share=0.5, texts=2, max_tokens=512, rows=8, engine=EngineConfig(kind="transformers", batch=4))
    without, alone, both = (
        training_bytes(QWEN, training(on_policy=own), 8, teacher)
        for own, teacher in ((None, None), (policy, None), (policy, QWEN))
    )
    length = training().max_length
    assert alone["activations"] == without["activations"] * (8 + policy.texts) // 8
    assert alone["own texts"] == 2 * 8 * (length * QWEN.cached + (length - 512) * QWEN.vocabulary)
    assert both == {**alone, "teacher": 2 * QWEN.parameters + 12 * MOST_LOGITS}
    for tokens, texts in ((16, 4), (1500, 1)):  # one long text may have more logits than are computed at once otherwise
        other = training(on_policy=policy.model_copy(update={"max_tokens": tokens}))
        logits = texts * tokens * QWEN.vocabulary
        assert training_bytes(QWEN, other, 8, QWEN)["teacher"] == 2 * QWEN.parameters + 12 * logits


def test_tensor_parallel_divides_a_served_model() -> None:
    one = serving(QWEN, EngineConfig(max_context=1000))
    assert one.weights == 2 * QWEN.parameters
    assert one.sequence == 2 * QWEN.cached * 1000
    two = serving(QWEN, EngineConfig(max_context=1000, tensor_parallel=2, dtype="float32"))
    assert two.weights == one.weights
    assert serving(QWEN, EngineConfig(max_context=500)).sequence == pytest.approx(one.sequence / 2)
