"""Memory of the objective at the vocabulary size of real models: peak of its forward and backward pass, chunked or whole.

Measures L_SFT alone, with L_cons between all eight rationales of a question, and with soft targets. Each form runs in its own process,
because a process does not return freed memory: `python -m stages.speed.memory chunked with-L_cons`. Linux only, because it reads /proc.

Axes: K rationales, P wanted positions, A answer positions, V vocabulary.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

VOCABULARY: Final = 152_064
"""Qwen2.5's vocabulary size."""
TOKENS: Final = 2048
"""Tokens that carry loss, over all rationales."""
RATIONALES: Final = 8
ANSWER: Final = 8
"""Tokens of an answer."""
LIKELY: Final = 32
"""The teacher's most likely tokens of each position."""
OBJECTIVES: Final = {
    "the objective": "L_SFT", "the objective with L_cons": "with-L_cons", "the objective with soft targets": "with-soft-targets"
}  # fmt: skip
_HOME: Final = Path(__file__).parents[2]


def _resident(name: str) -> int:
    """KiB of this process: `VmRSS` is the current value, `VmHWM` the peak since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def grown(work: Callable[[], object]) -> int:
    """Peak growth of memory while `work` runs, in KiB.

    `ru_maxrss` is not used: it starts at the value of the parent process.
    """
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def added(form: str, terms: str, vocabulary: int = VOCABULARY, tokens: int = TOKENS) -> int:
    """Memory that a forward and a backward pass add to the student's own, in KiB."""
    import torch

    torch.set_num_threads(1)
    return grown(objective_pass(form, terms, "cpu", vocabulary, tokens))


def objective_pass(
    form: str, terms: str, device: str, vocabulary: int = VOCABULARY, tokens: int = TOKENS
) -> Callable[[], None]:
    """A forward and a backward pass of a one-layer student, chunked or whole; its gradients exist already."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from pipeline.config.training import Consistency
    from pipeline.student.batch import TokenRow, batch, rationale_spans
    from pipeline.student.objective import consistency
    from pipeline.student.token_losses import StudentLosses, losses_of
    from stages.speed.workload import random_targets

    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    student = Qwen2ForCausalLM(config).to(device)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model = StudentLosses(student) if form == "chunked" else StudentLosses(student, most=tokens * vocabulary)
    length = tokens // RATIONALES
    # The answer precedes the end token.
    rows = [TokenRow(torch.arange(1 + length).tolist(), 1, (length - ANSWER, length)) for _ in range(RATIONALES)]
    item = batch(rows, rationale_spans(rows), 0)
    asked_KA = torch.arange(RATIONALES)[:, None] * length + torch.arange(length - ANSWER, length) - 1
    asked_A = asked_KA.flatten() if terms == "with-L_cons" else torch.zeros(0, dtype=torch.long)
    soft = random_targets(len(item.labels_P), LIKELY, vocabulary) if terms == "with-soft-targets" else None

    def work() -> None:
        losses_P, logits_AV, soft_J = losses_of(model, item, asked_A, torch.device(device), soft)
        loss = losses_P.mean() if soft is None else (losses_P + soft_J).mean()
        if len(asked_A):
            alpha_K = torch.full((RATIONALES,), 1 / RATIONALES, device=device)
            loss = loss + consistency(logits_AV.view(-1, ANSWER, vocabulary), alpha_K, Consistency().divergence)
        loss.backward()  # type: ignore[no-untyped-call]

    return work


def measure(say: Callable[[str], None]) -> dict[str, float]:
    """Memory of the chunked form relative to the whole form, by name."""

    def one(form: str, terms: str) -> int:
        command = [sys.executable, "-m", "stages.speed.memory", form, terms]
        found = int(subprocess.run(command, cwd=_HOME, check=True, capture_output=True, text=True).stdout.split()[-1])
        say(f"{form}, {terms}: {found / 1024:,.0f} MiB")
        return found

    return {
        f"memory of {name}, chunked / whole": one("chunked", terms) / one("whole", terms) for name, terms in OBJECTIVES.items()
    }


if __name__ == "__main__":
    print(added(sys.argv[1], sys.argv[2]))
