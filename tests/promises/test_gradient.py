"""Promise 1: the gradient is the same for any split of the global batch into ranks and micro-batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.one_step import RATE
from tests.support.runs import REPOSITORY

# The first step uses the full learning rate RATE (no warm-up) and no clipping.
TRAINING = {
    "steps": 10**6,
    "questions_per_step": 8,
    "learning_rate": RATE,
    "warm_up": 0.0,
    "clip": 1e9,
    "precision": "fp32",
    "max_length": 512,
    "mixture": {"beta": 0.3},
    "consistency": {"weight": 0.5},
    "soft_targets": {"share": 0.5},
}
SPLITS = {
    1: {
        "whole": {"questions_per_micro_batch": 8, "zero_stage": 0},
        "two": {"questions_per_micro_batch": 4, "zero_stage": 1},
        "eight": {"questions_per_micro_batch": 1, "zero_stage": 2},
        "zero3": {"questions_per_micro_batch": 2, "zero_stage": 3},
        "bf16": {"questions_per_micro_batch": 4, "zero_stage": 2, "precision": "bf16"},
    },
    2: {
        "ranks-one-each": {"questions_per_micro_batch": 4, "zero_stage": 0},
        "ranks-four-each": {"questions_per_micro_batch": 1, "zero_stage": 1},
        "ranks-zero2": {"questions_per_micro_batch": 2, "zero_stage": 2},
        "ranks-zero3": {"questions_per_micro_batch": 2, "zero_stage": 3},
        # Rationales of unequal length would give the ranks different numbers of logit chunks.
        "ranks-zero3-chunked": {"questions_per_micro_batch": 2, "zero_stage": 3, "most": 300 * 8},
        "ranks-bf16-zero3": {"questions_per_micro_batch": 4, "zero_stage": 3, "precision": "bf16"},
    },
}
EXACT = [name for ranks in SPLITS for name in SPLITS[ranks] if name != "whole" and "bf16" not in name]


def launch(folder: Path, model: Path, ranks: int) -> None:
    perspectives = [{"name": f"p{k}", "description": "", "instruction": ""} for k in range(4)]
    config = {
        "student": {"path": str(model), "chat": False},
        "perspectives": perspectives,
        "prompts": {},
        "training": {**TRAINING, "ranks": ranks},
        "objective": {},
        "metanet": {"heads": 2, "width": 16},
        "seed": 0,
    }
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps({"config": config, "variants": SPLITS[ranks]}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={ranks}",
               "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "tests.support.one_step", str(folder)]  # fmt: skip
    surroundings = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONFAULTHANDLER": "1"}
    for last in (False, True):
        answer = subprocess.run(
            command, cwd=REPOSITORY, env=surroundings, capture_output=True, text=True, check=False, timeout=300
        )
        if answer.returncode == 0:
            return
        # The launcher's own message, which has no reason, follows the output of the ranks.
        said = answer.stderr.partition("torch.distributed.elastic.multiprocessing.errors")[0][-6000:]
        assert "SIGABRT" in answer.stderr and not last, said
        # On rare occasions a library aborts a rank. That is unrelated to gradients: warn and start the ranks again.
        warnings.warn(f"a rank was aborted: {said}", stacklevel=2)


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, torch.Tensor]:
    """Flat gradient by split: (weights before - after) / rate."""
    folder = tmp_path_factory.mktemp("gradient")
    before = {f"student.{name}": value for name, value in load_file(tiny_model / "model.safetensors").items()}
    found, logged = {}, {}
    for ranks in SPLITS:
        launch(folder / str(ranks), tiny_model, ranks)
        for name in SPLITS[ranks]:
            logged[name] = json.loads((folder / str(ranks) / f"{name}.json").read_text())["gradient_norm"]
            after = load_file(folder / str(ranks) / f"{name}.safetensors")
            found[name] = torch.cat([((before[key] - after[key].float()) / RATE).flatten() for key in sorted(before)])
    for name in EXACT:
        assert logged[name] == pytest.approx(float(found["whole"].norm()), rel=1e-5), f"the logged norm of {name}"
    return found


@pytest.mark.e2e
@pytest.mark.parametrize("split", EXACT)
def test_every_split_of_the_global_batch_gives_the_same_gradient(gradients: dict[str, Any], split: str) -> None:
    whole = gradients["whole"]
    assert whole.norm() > 1e-3
    difference = gradients[split] - whole
    assert difference.norm() / whole.norm() <= 1e-5
    # The norm of many small errors would hide a one-sided drift.
    assert abs(float(difference.sum())) / float(whole.abs().sum()) <= 1e-5


@pytest.mark.e2e
@pytest.mark.parametrize("split", ["bf16", "ranks-bf16-zero3"])
def test_bfloat16_gives_the_gradient_within_its_precision(gradients: dict[str, Any], split: str) -> None:
    whole = gradients["whole"]
    assert (gradients[split] - whole).norm() / whole.norm() <= 0.03
