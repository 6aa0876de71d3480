"""Small random students of common families: full and LoRA training under every ZeRO stage, and complete exports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from pipeline.config.run import RunConfig, load_config
from pipeline.model_folders import ADAPTER, check_weights
from stages.core.plan import plan
from stages.core.process import store_of
from tests.support import experiment
from tests.support.models import build_tokenizer
from tests.support.runs import REPOSITORY, write_config

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
FAMILIES: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**SMALL, vocab_size=151_936, tie_word_embeddings=True, max_position_embeddings=32_768),
    "qwen3": Qwen3Config(**SMALL, vocab_size=1024, tie_word_embeddings=False, head_dim=16, max_position_embeddings=32_768),
    "llama3": LlamaConfig(
        **SMALL, vocab_size=2048, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE, max_position_embeddings=131_072
    ),
}
RANK = 4
LORA = {"lora": {"rank": RANK, "alpha": 8}, "learning_rate": 1e-2, "metanet_rate": 1e-3}
DECAY = {"zero_stage": 2, "weight_decay": 0.1, "learning_rate": 1e-2}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"zero_stage": 0, "packing": "none"},
    "zero1": {"zero_stage": 1, "offload": "optimizer"},
    "zero2": {"zero_stage": 2, "gradient_checkpointing": True},
    "zero3": {"zero_stage": 3, "offload": "all"},
    "decayed": DECAY,
    "decayed-struck": DECAY,
    "bf16": {"zero_stage": 2, "precision": "bf16", "gradient_checkpointing": True},
    "packed": {"zero_stage": 0},
    "chunked": {"zero_stage": 0},
    "zero3-chunked": {"zero_stage": 3},
    "lora": {**LORA, "zero_stage": 0},
    "lora-struck": {**LORA, "zero_stage": 0},
    "lora-zero3": {**LORA, "zero_stage": 3, "gradient_checkpointing": True},
    "lora-zero3-struck": {**LORA, "zero_stage": 3, "gradient_checkpointing": True},
    "lora-bf16": {**LORA, "zero_stage": 2, "precision": "bf16"},
}
ALL_VARIANTS = "qwen3"
"""The family that is trained in every variant; the others are trained in three."""
CASES = [
    (family, variant)
    for family in FAMILIES
    for variant in VARIANTS
    if family == ALL_VARIANTS or variant in ("full", "bf16", "lora")
]
STEPS = 3
CHUNKED = 40_000
"""Logits per chunk: a few dozen tokens."""


def _student(folder: Path, shape: PreTrainedConfig) -> Path:
    tokenizer = build_tokenizer(folder)
    torch.manual_seed(0)
    shape.eos_token_id, shape.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    return folder


def _run(folder: Path, student: Path, changes: dict[str, Any]) -> RunConfig:
    tree = experiment.tree(student)
    small = {
        "steps": STEPS,
        "questions_per_step": 4,
        "questions_per_micro_batch": 2,
        "checkpoint_every": 1,
        "learning_rate": 1e-3,
        "metanet_rate": 9e-4,
    }
    tree["training"] |= {**small, **changes}
    return load_config(write_config(folder, tree))


def _train(root: Path, family: str) -> Path:
    student = _student(root / "student", FAMILIES[family])
    spec = []
    for name in (variant for mine, variant in CASES if mine == family):
        run = _run(root, student, VARIANTS[name])
        experiment.commit(run, "synthesis", lambda draft, run=run: experiment.synthesis(run, experiment.styled, draft))
        synthesis = store_of(run).open("synthesis", plan(run)["synthesis"].fingerprint).folder
        config = plan(run)["training"].config.model_dump(mode="json")
        fail = 1 if name.endswith("struck") else None
        spec.append(
            {
                "config": config,
                "folder": str(root / name),
                "synthesis": str(synthesis),
                "fail": fail,
                "most": CHUNKED if name.endswith("chunked") else 1 << 26,
            }
        )
    (root / "spec.json").write_text(json.dumps(spec))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # fmt: skip
    command = [sys.executable, "-m", "tests.support.trainings", str(root / "spec.json")]
    answer = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By family: a folder with the untrained student and the output of each training variant."""
    return {family: _train(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture
def trained(folders: dict[str, Path]) -> Path:
    return folders[ALL_VARIANTS]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}


def _losses(folder: Path) -> list[float]:
    return [loss for path in sorted(folder.glob("steps-*.parquet")) for loss in pq.read_table(path)["loss"].to_pylist()]


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_the_exported_student_is_complete_and_has_changed(folders: dict[str, Path], family: str, variant: str) -> None:
    folder = folders[family] / variant / "draft" / "student"
    assert check_weights(folder) is None
    base, found = _weights(folders[family] / "student"), _weights(folder)
    assert found.keys() == base.keys()
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in base.items()}
    moved = {name for name, value in found.items() if not torch.equal(value, base[name])}
    assert any("q_proj" in name for name in moved)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    logits = model(torch.tensor([tokenizer("Question: 1+1?")["input_ids"]])).logits
    assert torch.isfinite(logits).all()
    assert logits.shape[-1] == model.config.vocab_size > len(tokenizer)


@pytest.mark.parametrize("variant", ["zero1", "zero2", "zero3", "packed", "chunked", "zero3-chunked"])
def test_full_training_is_equal_for_zero_offload_checkpointing_and_packing(trained: Path, variant: str) -> None:
    plain, found = (_weights(trained / name / "draft" / "student") for name in ("full", variant))
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5)
    assert _losses(trained / variant / "draft") == pytest.approx(_losses(trained / "full" / "draft"), rel=1e-4)


@pytest.mark.parametrize("variant", ["lora", "lora-zero3"])
def test_lora_changes_only_the_linear_layers_within_its_rank(trained: Path, variant: str) -> None:
    base, found = _weights(trained / "student"), _weights(trained / variant / "draft" / "student")
    for name, value in found.items():
        change = value - base[name]
        if "_proj.weight" in name:
            assert 0 < int(torch.linalg.matrix_rank(change, atol=1e-6)) <= RANK
        else:
            assert not change.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_with_the_exported_adapters_has_the_logits_of_the_merged_student(
    folders: dict[str, Path], family: str
) -> None:
    student = folders[family] / "lora" / "draft" / "student"
    base = AutoModelForCausalLM.from_pretrained(folders[family] / "student", dtype=torch.float32)
    tokens = torch.arange(1, 40)[None]
    untrained = base(tokens).logits
    adapted = PeftModel.from_pretrained(base, student / ADAPTER)(tokens).logits
    merged = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)(tokens).logits
    assert (adapted - merged).abs().max() < 1e-5 < (adapted - untrained).abs().max()


def test_adapters_are_the_same_files_after_a_failure_and_name_no_path(trained: Path) -> None:
    one, other = (trained / variant / "draft" / "student" / ADAPTER for variant in ("lora", "lora-struck"))
    assert (one / "adapter_config.json").read_bytes() == (other / "adapter_config.json").read_bytes()
    assert json.loads((one / "adapter_config.json").read_text())["base_model_name_or_path"] == "student"
    assert sorted(path.name for path in one.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("variant", ["lora", "lora-zero3", "decayed"])
def test_training_resumes_exactly_after_a_failure(trained: Path, variant: str) -> None:
    plain, struck = trained / variant / "draft", trained / f"{variant}-struck" / "draft"
    assert len(_losses(plain)) == STEPS
    assert _losses(struck) == _losses(plain)
    found = _weights(struck / "student")
    assert all(torch.equal(found[name], value) for name, value in _weights(plain / "student").items())
    # Fewer steps than MetaNet's accumulation: its only update, at the last step, has gradients from before and after the failure.
    assert (struck / "metanet.safetensors").read_bytes() == (plain / "metanet.safetensors").read_bytes()
    start = experiment.metanet(0).state_dict()
    assert not torch.equal(load_file(plain / "metanet.safetensors")["align.weight"], start["align.weight"])


def test_a_lora_checkpoint_is_small(trained: Path) -> None:
    def size(variant: str) -> int:
        return sum(path.stat().st_size for path in (trained / variant / "scratch").glob(f"step-{STEPS:06d}/*states.pt"))

    # DeepSpeed omits frozen weights except tied embeddings, which this family does not have.
    assert size("lora") < size("full") / 2
