"""Measures how fast synthesis reads rationales: one packed pass against two padded ones.

    python -m tests.bench.synthesis MODEL [--questions 16] [--prompt 80] [--rationale 110] [--precision bf16]

MODEL is a student's folder. Every question has eight rationales of random tokens. The padded passes, in fp32 and in the order of the file,
first give the losses and then the features. The packed pass, in the precision of the training, gives both. Processor seconds of one thread.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch

from pipeline.config.models import LocalModel
from pipeline.model_folders import load_causal_model
from pipeline.student.batch import TokenRow
from pipeline.student.hidden_states import pooled_states
from pipeline.student.losses_and_states import losses_and_states
from pipeline.student.self_check import right_form
from pipeline.student.token_losses import DTYPES, StudentLosses, measured_losses

AT_ONCE = 32


def _rows(questions: int, prompt: int, rationale: int, vocabulary: int) -> tuple[list[TokenRow], list[int]]:
    """Eight rationales per question; lengths vary by a third."""
    rng, rows, owners = random.Random(0), [], []
    for question in range(questions):
        before = [rng.randrange(vocabulary) for _ in range(rng.randrange(2 * prompt // 3, 4 * prompt // 3))]
        for _ in range(8):
            text = [rng.randrange(vocabulary) for _ in range(rng.randrange(2 * rationale // 3, 4 * rationale // 3))]
            rows.append(TokenRow(before + text, len(before), (len(before), len(before) + 1)))
            owners.append(question)
    return rows, owners


def main() -> None:
    """Print processor seconds, tokens per second, and the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    for name, default in (("questions", 16), ("prompt", 80), ("rationale", 110)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=tuple(DTYPES), default="bf16")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cpu, folder = torch.device("cpu"), LocalModel(path=given.model)

    plain = load_causal_model(folder, torch.float32).eval()
    rows, owners = _rows(given.questions, given.prompt, given.rationale, plain.config.get_text_config().vocab_size)
    begun = time.process_time()
    before_B = measured_losses(StudentLosses(plain), rows, 0, cpu, AT_ONCE, 1.0)
    pooled_states(plain, rows, 0, cpu, AT_ONCE)
    two_padded = time.process_time() - begun

    student = load_causal_model(folder, DTYPES[given.precision]).eval()
    form = right_form(student, rows[:8], 0, "rows")
    begun = time.process_time()
    after_B, _ = losses_and_states(student, form, rows, owners, 0, AT_ONCE, 1.0)
    one_packed = time.process_time() - begun

    tokens, off = sum(len(row.tokens) for row in rows), float((before_B - after_B).abs().max())
    print(f"{len(rows)} rationales, {tokens:,} tokens with their prompts; losses differ by at most {off:.2g}")
    print(f"two padded passes, fp32: {two_padded:.1f} s, {tokens / two_padded:,.0f} tokens/s")
    print(f"one pass ({form.packing}), {given.precision}: {one_packed:.1f} s, {tokens / one_packed:,.0f} tokens/s")
    print(f"ratio {two_padded / one_packed:.1f}")


if __name__ == "__main__":
    main()
