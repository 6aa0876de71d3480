from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.config.synthesis import MetaNetShape
from pipeline.metanet.loss import meta_loss
from pipeline.metanet.network import MetaNet, fused, preferences

DIRECTIONS = ["prediction_first", "target_first"]
OFF = float("-inf")
rows = st.lists(
    st.tuples(st.floats(-8, 8, width=32), st.floats(-8, 8, width=32), st.booleans()), min_size=2, max_size=8
).filter(lambda row: any(present for _, _, present in row))


def _tensors(row: list[tuple[float, float, bool]]) -> tuple[Tensor, Tensor, Tensor]:
    scores, targets, mask = (torch.tensor(column)[None] for column in zip(*row, strict=True))
    return scores.masked_fill(~mask, OFF), targets.masked_fill(~mask, OFF), mask


@pytest.fixture(scope="module")
def metanet() -> MetaNet:
    torch.manual_seed(0)
    return MetaNet(perspectives=4, features=6, shape=MetaNetShape(width=8, heads=2))


@given(rows, st.floats(0.2, 5))
def test_preferences_sum_to_one_and_are_zero_where_masked(row: list[tuple[float, float, bool]], temperature: float) -> None:
    scores_QK, _, mask_QK = _tensors(row)
    pi_QK = preferences(scores_QK, temperature)
    assert torch.allclose(pi_QK.sum(-1), torch.ones(1), atol=1e-5)
    assert (pi_QK[~mask_QK] == 0).all()
    assert (pi_QK[mask_QK] > 0).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(row=rows, temperature=st.floats(0.5, 3), shift=st.floats(-5, 5))
def test_meta_loss_is_never_negative_and_zero_for_equal_preferences(
    direction: str, row: list[tuple[float, float, bool]], temperature: float, shift: float
) -> None:
    scores_QK, targets_QK, _ = _tensors(row)
    assert float(meta_loss(scores_QK, targets_QK, temperature, direction)) >= -1e-5
    assert float(meta_loss(scores_QK, scores_QK + shift, temperature, direction)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_meta_loss_is_positive_for_different_preferences(direction: str) -> None:
    scores_QK, targets_QK = torch.tensor([[0.0, 1.0, OFF]]), torch.tensor([[1.0, 0.0, OFF]])
    p, q = torch.softmax(torch.tensor([0.0, 1.0]), 0), torch.softmax(torch.tensor([1.0, 0.0]), 0)
    assert float(meta_loss(scores_QK, targets_QK, 1.0, direction)) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_meta_loss_has_gradients_for_present_perspectives_only(direction: str) -> None:
    scores_QK = torch.tensor([[0.0, 1.0, OFF], [0.5, 0.0, 1.0]], requires_grad=True)
    targets_QK = torch.tensor([[1.0, 0.0, OFF], [0.0, 0.0, 0.0]])
    meta_loss(scores_QK, targets_QK, 1.0, direction).backward()  # type: ignore[no-untyped-call]
    assert scores_QK.grad is not None
    assert scores_QK.grad.isfinite().all()
    assert scores_QK.grad[0, 0] < 0 < scores_QK.grad[0, 1]
    assert scores_QK.grad[0, 2] == 0


def test_the_two_directions_are_the_two_kl_divergences() -> None:
    scores_QK, targets_QK = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 1.0]])
    forward = meta_loss(scores_QK, targets_QK, 1.0, "prediction_first")
    assert float(forward) == pytest.approx(float(meta_loss(targets_QK, scores_QK, 1.0, "target_first")), rel=1e-5)
    assert float(forward) != pytest.approx(float(meta_loss(scores_QK, targets_QK, 1.0, "target_first")), rel=1e-2)


@given(st.integers(0, 3), st.floats(-100, 100))
def test_a_missing_perspective_has_no_score_and_no_effect(metanet: MetaNet, missing: int, noise: float) -> None:
    features_QKF = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    mask_QK = torch.ones(2, 4, dtype=torch.bool)
    mask_QK[0, missing] = False
    other_QKF = features_QKF.clone()
    other_QKF[0, missing] += noise
    with torch.no_grad():
        (scores_QK, hidden_QKD), (again_QK, changed_QKD) = (metanet(item, mask_QK) for item in (features_QKF, other_QKF))
    assert scores_QK[0, missing] == OFF
    assert torch.allclose(scores_QK[mask_QK], again_QK[mask_QK], atol=1e-6)
    assert torch.allclose(fused(scores_QK, hidden_QKD, 1.0), fused(again_QK, changed_QKD, 1.0), atol=1e-5)


def test_a_present_perspective_affects_the_other_scores(metanet: MetaNet) -> None:
    features_QKF = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(1))
    other_QKF = features_QKF.clone()
    other_QKF[0, 2] += 3
    mask_QK = torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        assert (metanet(features_QKF, mask_QK)[0][0, :2] - metanet(other_QKF, mask_QK)[0][0, :2]).abs().max() > 1e-4


def test_the_alignment_of_the_paper_is_an_mlp_of_two_layers_shared_by_perspectives() -> None:
    few, many = (MetaNet(k, 6, MetaNetShape(width=8, heads=2, alignment="mlp")) for k in (2, 7))
    shapes = [tuple(item.shape) for item in many.align.parameters()]
    assert shapes == [(8, 6), (8,), (8, 8), (8,)] == [tuple(item.shape) for item in few.align.parameters()]
    features_QKF = torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(0)).expand(1, 7, 6)
    with torch.no_grad():
        _, hidden_QKD = many(features_QKF, torch.ones(1, 7, dtype=torch.bool))
        assert torch.allclose(many.align(features_QKF)[0, 0], many.align(features_QKF)[0, 6])
    assert hidden_QKD.shape == (1, 7, 8)


def test_questions_do_not_affect_each_other(metanet: MetaNet) -> None:
    features_QKF = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2))
    mask_QK = torch.tensor([[True] * 4, [True, False, True, False], [True, True, False, False]])
    with torch.no_grad():
        together_QK, _ = metanet(features_QKF, mask_QK)
        alone_QK = torch.cat([metanet(features_QKF[q : q + 1], mask_QK[q : q + 1])[0] for q in range(3)])
    assert torch.allclose(together_QK[mask_QK], alone_QK[mask_QK], atol=1e-6)
