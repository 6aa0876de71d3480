"""The divergence to the teacher: exact over the whole vocabulary, and a bound of it over the top k and the tail."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.config.soft_targets import Divergence
from pipeline.student.teacher_divergence import TopTokens, soft_losses

VOCABULARY = 12
DIVERGENCES = [Divergence(kind=kind) for kind in ("forward_kl", "reverse_kl", "jensen_shannon")]
DIVERGENCES += [Divergence(kind="jensen_shannon", beta=beta) for beta in (0.1, 0.9)]
SEEDS, SCALES, TOPS = st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 5.0, 30.0]), st.integers(1, VOCABULARY)


def logits(seed: int, scale: float) -> tuple[Tensor, Tensor]:
    """Logits (P, V) of a teacher and a student."""
    random = torch.Generator().manual_seed(seed)
    teacher, student = (scale * torch.randn(5, VOCABULARY, generator=random) for _ in range(2))
    return teacher, student


def top(teacher_PV: Tensor, count: int) -> TopTokens:
    found = torch.log_softmax(teacher_PV, -1).topk(count, -1)
    return TopTokens(found.indices, found.values)


def teacher_divergence(student_PV: Tensor, teacher: TopTokens, divergence: Divergence) -> Tensor:
    labels_P = torch.zeros(len(student_PV), dtype=torch.long)
    return soft_losses(student_PV, labels_P, teacher, divergence)[1]


def dense(teacher_PV: Tensor, student_PV: Tensor, divergence: Divergence) -> Tensor:
    """The definition over the whole vocabulary, in double precision."""
    return dense_of(*(torch.softmax(logits_PV.double(), -1) for logits_PV in (teacher_PV, student_PV)), divergence)


def dense_of(p: Tensor, q: Tensor, divergence: Divergence) -> Tensor:
    def kl(one: Tensor, other: Tensor) -> Tensor:
        return (torch.xlogy(one, one) - one * other.clamp(min=1e-300).log()).sum(-1)

    if divergence.kind == "forward_kl":
        return kl(p, q)
    if divergence.kind == "reverse_kl":
        return kl(q, p)
    middle = divergence.beta * p + (1 - divergence.beta) * q
    return divergence.beta * kl(p, middle) + (1 - divergence.beta) * kl(q, middle)


@given(SEEDS, st.sampled_from([0.1, 1.0, 5.0]), st.sampled_from(DIVERGENCES))
def test_over_the_whole_vocabulary_value_and_gradient_are_those_of_the_definition(
    seed: int, scale: float, divergence: Divergence
) -> None:
    teacher_PV, student_PV = logits(seed, scale)
    mine, theirs = student_PV.clone().requires_grad_(), student_PV.clone().double().requires_grad_()
    found_P = teacher_divergence(mine, top(teacher_PV, VOCABULARY), divergence)
    expected_P = dense(teacher_PV, theirs, divergence)
    torch.testing.assert_close(found_P.double(), expected_P, rtol=1e-5, atol=1e-5)
    found_P.sum().backward()  # type: ignore[no-untyped-call]
    expected_P.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


@given(SEEDS, st.sampled_from([0.1, 1.0, 2.0]), TOPS, st.sampled_from(DIVERGENCES))
def test_cross_entropy_and_gradients_are_those_of_plain_operations(
    seed: int, scale: float, count: int, divergence: Divergence
) -> None:
    teacher_PV, student_PV = logits(seed, scale)
    labels_P, teacher = torch.arange(5), top(teacher_PV, count)
    mine, theirs = student_PV.clone().requires_grad_(), student_PV.clone().double().requires_grad_()
    losses_P, soft_P = soft_losses(mine, labels_P, teacher, divergence)
    expected_P = torch.nn.functional.cross_entropy(theirs, labels_P, reduction="none")
    p_PC, q_PV = teacher.logprobs_PC.double().exp(), torch.softmax(theirs, -1)
    q_PC = q_PV.gather(-1, teacher.ids_PC)
    if count < VOCABULARY:
        rest_PV = q_PV.scatter(-1, teacher.ids_PC, 0.0)
        p_PC = torch.cat([p_PC, (1 - p_PC.sum(-1, keepdim=True)).clamp(min=2.0**-24)], -1)
        q_PC = torch.cat([q_PC, rest_PV.sum(-1, keepdim=True)], -1)
    expected_soft_P = dense_of(p_PC, q_PC, divergence)
    torch.testing.assert_close(losses_P.double(), expected_P, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(soft_P.double(), expected_soft_P, rtol=1e-4, atol=1e-5)
    (losses_P * 0.3 + soft_P * 0.7).sum().backward()  # type: ignore[no-untyped-call]
    (expected_P * 0.3 + expected_soft_P * 0.7).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=2e-5)


@given(SEEDS, SCALES, TOPS, st.sampled_from(DIVERGENCES))
def test_with_a_tail_it_is_never_negative_and_never_more_than_over_the_vocabulary(
    seed: int, scale: float, count: int, divergence: Divergence
) -> None:
    teacher_PV, student_PV = logits(seed, scale)
    found_P = teacher_divergence(student_PV, top(teacher_PV, count), divergence).double()
    assert (found_P >= -1e-6).all()
    if divergence.kind != "reverse_kl":  # that of a tail which single precision cannot tell from 0 is cut at its smallest value
        assert (found_P <= dense(teacher_PV, student_PV, divergence) + 1e-5 * (1 + found_P)).all()


@given(SEEDS, SCALES, TOPS, st.sampled_from(DIVERGENCES))
def test_of_equal_distributions_it_is_zero_with_no_gradient(
    seed: int, scale: float, count: int, divergence: Divergence
) -> None:
    teacher_PV, _ = logits(seed, scale)
    mine = teacher_PV.clone().requires_grad_()
    found_P = teacher_divergence(mine, top(teacher_PV, count), divergence)
    found_P.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found_P, torch.zeros(5), rtol=0, atol=2e-5)
    torch.testing.assert_close(mine.grad, torch.zeros_like(mine), rtol=0, atol=2e-5)


@given(SEEDS, TOPS, st.sampled_from(DIVERGENCES))
def test_a_gradient_step_brings_the_student_nearer(seed: int, count: int, divergence: Divergence) -> None:
    teacher_PV, student_PV = logits(seed, 2.0)
    mine = student_PV.clone().requires_grad_()
    before = teacher_divergence(mine, top(teacher_PV, count), divergence).sum()
    before.backward()  # type: ignore[no-untyped-call]
    after = teacher_divergence(student_PV - 1e-3 * mine.grad, top(teacher_PV, count), divergence).sum()
    assert float(after) <= float(before.detach())


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda item: f"{item.kind}-{item.beta}")
@given(SEEDS, TOPS)
def test_another_teacher_gives_another_gradient(divergence: Divergence, seed: int, count: int) -> None:
    teacher_PV, student_PV = logits(seed, 2.0)

    def gradient(teacher_PV: Tensor) -> Tensor:
        mine = student_PV.clone().requires_grad_()
        teacher_divergence(mine, top(teacher_PV, count), divergence).sum().backward()  # type: ignore[no-untyped-call]
        return mine.grad

    assert not torch.allclose(gradient(teacher_PV), gradient(teacher_PV.roll(1, -1)), atol=1e-4)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda item: f"{item.kind}-{item.beta}")
def test_excluded_and_certain_tokens_give_finite_values_and_gradients(divergence: Divergence) -> None:
    teacher = TopTokens(torch.tensor([[3, 5], [3, 5]]), torch.tensor([[0.0, -math.inf], [-1e-9, -200.0]]))
    mine = torch.tensor([[60.0] + [0.0] * 11, [-60.0] * 11 + [60.0]]).requires_grad_()
    found_P = teacher_divergence(mine, teacher, divergence)
    found_P.sum().backward()  # type: ignore[no-untyped-call]
    assert found_P.isfinite().all()
    assert mine.grad.isfinite().all()


def test_the_tail_counts_where_sums_over_the_top_alone_would_be_negative() -> None:
    """A student that puts more on the teacher's best token than the teacher: -p·log(q/p) alone is below zero."""
    teacher = TopTokens(torch.tensor([[0]]), torch.tensor([[math.log(0.5)]]))
    student_PV = torch.tensor([[math.log(0.9 * 11 / 0.1)] + [0.0] * 11])
    found = float(teacher_divergence(student_PV, teacher, Divergence()))
    assert found == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1), abs=1e-6)
