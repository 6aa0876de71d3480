"""What the objective holds at a vocabulary of real models: peak memory of its forward and backward pass, chunked or whole.

Each form runs in a process of its own, because a process does not give back what it once had: `python -m stages.speed.memory chunked`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Final

VOCABULARY: Final = 152_064
"""Qwen2.5's."""
TOKENS: Final = 2048
"""That carry loss."""
_HOME: Final = Path(__file__).parents[2]


def _peak() -> int:
    """Of this process, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def added(form: str) -> int:
    """KiB that a forward and a backward pass add to those of the student alone."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from pipeline.rows import Row, batch, rationale_spans
    from pipeline.student import StudentLosses, losses_of

    torch.set_num_threads(1)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    student = Qwen2ForCausalLM(config)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model = StudentLosses(student) if form == "chunked" else StudentLosses(student, most=TOKENS * VOCABULARY)
    rows = [Row(torch.arange(1 + TOKENS // 8).tolist(), 1, (2, 3)) for _ in range(8)]
    item = batch(rows, rationale_spans(rows), 0)
    before = _peak()
    losses_P, _ = losses_of(model, item, torch.zeros(0, dtype=torch.long), torch.device("cpu"))
    losses_P.mean().backward()  # type: ignore[no-untyped-call]
    return _peak() - before


def measure() -> float:
    """The chunked form's share of what the whole one adds."""

    def one(form: str) -> int:
        command = [sys.executable, "-m", "stages.speed.memory", form]
        return int(subprocess.run(command, cwd=_HOME, check=True, capture_output=True, text=True).stdout.split()[-1])

    return one("chunked") / one("whole")


if __name__ == "__main__":
    print(added(sys.argv[1]))
