from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.student.objective import consistency, jensen_shannon, rationale_losses, real_losses, symmetric_kl, token_losses

seeds = st.integers(0, 10_000)


def _logits(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


@given(seeds, seeds, st.floats(0.1, 60))
def test_the_divergence_is_symmetric_and_between_zero_and_ln_2(one: int, other: int, scale: float) -> None:
    left, right = (torch.log_softmax(_logits(seed, 4, 9, scale=scale), -1) for seed in (one, other))
    value = float(jensen_shannon(left, right))
    assert value == pytest.approx(float(jensen_shannon(right, left)), abs=1e-6)
    assert -1e-6 <= value <= math.log(2) + 1e-6


@given(seeds)
def test_the_divergence_of_equal_distributions_is_zero(seed: int) -> None:
    left = torch.log_softmax(_logits(seed, 4, 9), -1)
    assert float(jensen_shannon(left, left)) == pytest.approx(0, abs=1e-6)


def test_the_divergence_of_disjoint_distributions_is_ln_2() -> None:
    left, right = (torch.log_softmax(torch.tensor([row]), -1) for row in ([80.0, 0, 0], [0, 80.0, 0]))
    assert float(jensen_shannon(left, right)) == pytest.approx(math.log(2), abs=1e-5)


@given(seeds, st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_rationale_losses_match_a_plain_loop(seed: int, lengths: list[int]) -> None:
    logits_PV = _logits(seed, sum(lengths), 7)
    labels_P = torch.randint(7, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    row_P = torch.tensor([row for row, length in enumerate(lengths) for _ in range(length)])
    expected = []
    for row in range(len(lengths)):
        tokens = [
            -math.log(float(torch.softmax(logits_PV[p].double(), -1)[labels_P[p]]))
            for p in range(len(row_P))
            if row_P[p] == row
        ]
        expected.append(sum(tokens) / len(tokens))
    shuffled = torch.randperm(len(row_P), generator=torch.Generator().manual_seed(seed))
    losses = rationale_losses(token_losses(logits_PV[shuffled], labels_P[shuffled]), row_P[shuffled], len(lengths))
    assert losses.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_losses_are_fp32_for_any_logit_type() -> None:
    logits_PV = _logits(0, 3, 7).bfloat16()
    assert rationale_losses(token_losses(logits_PV, torch.tensor([1, 2, 3])), torch.tensor([0, 0, 1]), 2).dtype == torch.float32


@given(seeds, st.integers(2, 5))
def test_consistency_weighs_every_pair_by_both_weights(seed: int, many: int) -> None:
    answers_KAV = [_logits(seed + k, 2, 6) for k in range(many)]
    alpha_K = torch.softmax(_logits(seed, many), 0)
    logs = [torch.log_softmax(logits, -1) for logits in answers_KAV]
    expected = sum(
        float(alpha_K[i] * alpha_K[j] * jensen_shannon(logs[i], logs[j])) for i in range(many) for j in range(i)
    )  # fmt: skip
    assert float(consistency(torch.stack(answers_KAV), alpha_K, "jensen_shannon")) == pytest.approx(
        expected, rel=1e-4, abs=1e-6
    )


@given(seeds, st.integers(2, 4), st.integers(1, 4), st.sampled_from(["jensen_shannon", "symmetric_kl"]))
def test_chunking_does_not_change_the_consistency_or_its_gradient(seed: int, many: int, length: int, divergence: str) -> None:
    found = []
    for most in (1 << 24, 1):
        logits_KAV = _logits(seed, many, length, 7).requires_grad_()
        with mock.patch("pipeline.student.objective.MAX_ELEMENTS", most):
            value = consistency(logits_KAV, torch.arange(1.0, many + 1), divergence)
            value.backward()
        found.append((value.detach(), logits_KAV.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_consistency_saves_no_tensor_per_pair_for_the_backward_pass() -> None:
    kept: list[int] = []
    logits_KAV = torch.zeros(8, 4, 1 << 18, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor
    ):
        consistency(logits_KAV, torch.ones(8), "jensen_shannon")
    assert sum(kept) <= 4 * logits_KAV.numel()


def test_equal_or_single_rationales_have_zero_consistency_loss() -> None:
    logits_AV = _logits(0, 2, 6)
    assert float(
        consistency(torch.stack([logits_AV, logits_AV + 3]), torch.tensor([0.5, 0.5]), "jensen_shannon")
    ) == pytest.approx(0, abs=1e-6)
    assert float(consistency(logits_AV[None], torch.tensor([1.0]), "jensen_shannon")) == 0
    assert float(consistency(torch.zeros(0, 2, 6), torch.zeros(0), "jensen_shannon")) == 0


def test_both_sides_of_a_pair_get_a_gradient() -> None:
    sides = [_logits(seed, 2, 6).requires_grad_() for seed in (1, 2)]
    consistency(torch.stack(sides), torch.tensor([0.5, 0.5]), "jensen_shannon").backward()  # type: ignore[no-untyped-call]
    for side in sides:
        assert side.grad is not None
        assert side.grad.isfinite().all()
        assert side.grad.abs().sum() > 0


def test_symmetric_kl_is_the_sum_of_both_kl_divergences() -> None:
    left, right = (torch.log_softmax(torch.randn(3, 7, generator=torch.Generator().manual_seed(seed)), -1) for seed in (0, 1))
    one, other = (F.kl_div(b, a, log_target=True, reduction="none").sum(-1).mean() for a, b in ((left, right), (right, left)))
    assert float(symmetric_kl(left, right)) == pytest.approx(float(one + other), rel=1e-5)
    assert float(symmetric_kl(left, left)) == 0


@given(seeds, st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(0.01, 1))
def test_the_real_loss_is_the_mean_over_the_hardest_tokens(seed: int, lengths: list[int], hardest: float) -> None:
    tokens = [torch.rand(length, generator=torch.Generator().manual_seed(seed + i)) for i, length in enumerate(lengths)]
    row_P = torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)])
    order = torch.randperm(len(row_P), generator=torch.Generator().manual_seed(seed))
    found = real_losses(torch.cat(tokens)[order], row_P[order], len(lengths), hardest)
    few = [max(1, math.ceil(float(torch.tensor(length) * hardest))) for length in lengths]
    expected = [item.sort(descending=True).values[:number].mean() for item, number in zip(tokens, few, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))
