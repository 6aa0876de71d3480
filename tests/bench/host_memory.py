"""Host memory of the ranks that load a student under ZeRO-3: python -m tests.bench.host_memory (one minute).

Two ranks on this machine load a Llama of 0.2 billion parameters, written in bfloat16, as training does. Prints for each precision the
memory of a rank that is its own, in MiB, apart from the pages of the weights' file, which the ranks of a host share. Without a GPU the
engine's memory, which would be the GPU's, is included in the last column.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

RANKS = 2


def own_memory() -> int:
    """Bytes of this process's memory that no file backs."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) << 10


def _rank(folder: Path, precision: str) -> None:
    from pipeline.model_folders import load_causal_model
    from pipeline.student.token_losses import DTYPES
    from stages.speed.training import config_of
    from stages.training.rank import engine_of, join

    fields = {
        "zero_stage": 3,
        "precision": precision,
        "ranks": RANKS,
        "questions_per_micro_batch": 1,
        "questions_per_step": RANKS,
    }
    config = config_of(folder, fields)
    join(config.training)
    before = own_memory()
    student = load_causal_model(config.student, DTYPES[precision])
    weights = sum(value.numel() * value.element_size() for value in student.parameters())
    loaded = own_memory() - before
    engine = engine_of(config.training, student, 0)
    if engine.global_rank == 0:
        row = (precision, *(f"{value / 2**20:.0f}" for value in (weights, loaded, own_memory() - before)))
        print("| " + " | ".join(row) + " |", flush=True)


def _write_student(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = LlamaConfig(
        vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=12, num_attention_heads=16,
        num_key_value_heads=4, tie_word_embeddings=False,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).save_pretrained(folder)


def main() -> None:
    """Without arguments: the table. With a folder and a precision: one rank."""
    if len(sys.argv) > 1:
        _rank(Path(sys.argv[1]), sys.argv[2])
        return
    with tempfile.TemporaryDirectory() as folder:
        _write_student(Path(folder))
        print("| precision | whole student, MiB | after loading | with the engine |\n|---|---|---|---|", flush=True)
        for precision in ("bf16", "fp32"):
            command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(RANKS), "-m", __spec__.name]
            ran = subprocess.run(
                [*command, folder, precision],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            print("".join(line + "\n" for line in ran.stdout.splitlines() if line.startswith("|")), end="", flush=True)


if __name__ == "__main__":
    main()
