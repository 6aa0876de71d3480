"""One packed forward gives the losses and mean states that each rationale has alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.student.batch import TokenRow
from pipeline.student.hidden_states import pooled_states
from pipeline.student.losses_and_states import losses_and_states
from pipeline.student.self_check import Form, right_form
from pipeline.student.token_losses import StudentLosses, measured_losses

CPU = torch.device("cpu")


def rows_of(questions: list[int], seed: int) -> list[TokenRow]:
    """Random rationales behind their question's prompt; some begin alike."""
    rng, rows = random.Random(seed), []
    prompts = {question: [rng.randrange(3, 60) for _ in range(rng.randrange(2, 20))] for question in questions}
    for question in questions:
        text = [7, 8] * rng.randrange(2) + [rng.randrange(3, 60) for _ in range(rng.randrange(2, 30))]
        tokens = [*prompts[question], *text]
        rows.append(TokenRow(tokens, len(prompts[question]), (len(tokens) - 2, len(tokens) - 1)))
    return rows


@pytest.mark.parametrize("packing", ["none", "rows"])
@pytest.mark.parametrize("at_once", [1, 5, 64])
@pytest.mark.parametrize("hardest", [1.0, 0.3])
def test_losses_and_states_are_those_of_each_rationale_alone(
    tiny_model: Path, packing: str, at_once: int, hardest: float
) -> None:
    questions = [0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 3]
    rows = rows_of(questions, seed=at_once)
    student = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    alone_B = torch.cat([measured_losses(StudentLosses(student), [row], 0, CPU, 1, hardest) for row in rows])
    texts = [TokenRow(row.tokens[:-1], row.start, row.answer) for row in rows]
    states_BD = torch.cat([pooled_states(student, [text], 0, CPU, 1) for text in texts])
    form = right_form(student, rows[:3], 0, "rows") if packing == "rows" else Form("none", False)
    assert form.packing == packing
    found_B, found_BD = losses_and_states(student, form, rows, questions, 0, at_once, hardest)
    torch.testing.assert_close(found_B, alone_B, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_BD, states_BD, rtol=1e-5, atol=1e-5)
    assert not student.model._forward_hooks
