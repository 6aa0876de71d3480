"""Student losses do not depend on the logit chunk size or on the attention implementation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from pipeline.student.attention import ROWS
from pipeline.student.batch import TokenRow, batch, rationale_spans
from pipeline.student.shared_prefix_packing import packed
from pipeline.student.token_losses import StudentLosses, losses_of

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=5)


def _found(
    model: StudentLosses, rows: list[TokenRow], asked_A: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    item = batch(rows, rationale_spans(rows), 0)
    losses_P, logits_AV, _ = losses_of(model, item, asked_A, torch.device("cpu"))
    model.zero_grad()
    (losses_P.mean() + logits_AV.square().mean()).backward()  # type: ignore[no-untyped-call]
    return losses_P.detach(), logits_AV.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.fixture(scope="module")
def student(tiny_model: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@given(LENGTHS, st.integers(1, 20), st.integers(0, 2**31))
def test_chunking_does_not_change_losses_logits_or_gradients(
    student: torch.nn.Module, lengths: list[int], positions: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    rows = [TokenRow(torch.randint(0, 250, (3 + n,), generator=random).tolist(), 3, (3, 4)) for n in lengths]
    asked_A = torch.randint(0, sum(lengths), (3,), generator=random)
    vocabulary = student.config.vocab_size
    whole = _found(StudentLosses(student), rows, asked_A)
    chunked = _found(StudentLosses(student, most=positions * vocabulary), rows, asked_A)
    torch.testing.assert_close(chunked[0], whole[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(chunked[1], whole[1], rtol=1e-5, atol=1e-5)
    for found, expected in zip(chunked[2], whole[2], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_chunking_saves_memory_for_the_backward_pass(student: torch.nn.Module) -> None:
    rows = [TokenRow([7] * 200, 1, (1, 2))] * 4
    item = batch(rows, rationale_spans(rows), 0)

    def held(most: int) -> int:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel() if tensor.ndim and tensor.shape[-1] == student.config.vocab_size else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses_of(StudentLosses(student, most=most), item, torch.zeros(0, dtype=torch.long), torch.device("cpu"))
        return sum(sizes)

    assert held(1 << 26) >= 4 * 199 * student.config.vocab_size
    assert held(1 << 12) < 4 * 199 * student.config.vocab_size / 4


def test_flex_and_row_attention_give_equal_losses_in_packed_lines(tiny_model: Path) -> None:
    """Forward pass only: FlexAttention has no backward pass on a CPU."""
    random = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 250, (9,), generator=random).tolist() for _ in range(3)]
    rows = [TokenRow(prompts[n % 3] + torch.randint(0, 250, (2 + n,), generator=random).tolist(), 9, (9, 10)) for n in range(9)]
    item = packed(rows, rationale_spans(rows), [n % 3 for n in range(9)], 0)
    found = []
    for attention in (ROWS, "flex_attention"):
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation=attention).eval()
        # Not compiled: compilation would take longer than the rest of this file.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            found.append(losses_of(StudentLosses(model), item, torch.zeros(0, dtype=torch.long), torch.device("cpu"))[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
