from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.synthesis import MetaNetShape, Objective
from pipeline.metanet import measured_lag as measure
from pipeline.metanet.measured_lag import distance, measured_lag, reversed_losses
from pipeline.metanet.network import MetaNet
from pipeline.metanet.optimizer import metanet_optimizer

OFF = float("-inf")


@given(st.integers(0, 999))
def test_reversing_twice_restores_the_losses(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    losses_QK = torch.rand(4, 5, generator=random)
    mask_QK = torch.rand(4, 5, generator=random) > 0.4
    turned_QK = reversed_losses(losses_QK, mask_QK)
    assert torch.equal(reversed_losses(turned_QK, mask_QK), losses_QK)
    assert torch.equal(turned_QK[~mask_QK], losses_QK[~mask_QK])
    for turned_K, loss_K, mask_K in zip(turned_QK, losses_QK, mask_QK, strict=True):
        assert torch.equal(turned_K[mask_K].argsort(), loss_K[mask_K].argsort(descending=True))
        assert torch.equal(turned_K[mask_K].sort().values, loss_K[mask_K].sort().values)


def test_distance_is_total_variation() -> None:
    scores_QK, targets_QK = torch.tensor([[50.0, 0.0, OFF], [1.0, 1.0, OFF]]), torch.tensor([[0.0, 50.0, OFF], [2.0, 2.0, OFF]])
    assert distance(scores_QK, targets_QK, 1.0) == pytest.approx(0.5)


def _lag(rate: float, accumulation: int) -> int | None:
    torch.manual_seed(0)
    metanet = MetaNet(4, 6, MetaNetShape(width=16, heads=2))
    optimizer = metanet_optimizer(metanet, rate)
    before = copy.deepcopy(metanet.state_dict())
    mask_QK = torch.tensor([[True] * 4, [True, True, True, False]] * 8)
    found = measured_lag(
        metanet, optimizer, rate, torch.randn(16, 4, 6), mask_QK, torch.rand(16, 4), Objective(),
        questions_per_step=4, accumulation=accumulation,
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in metanet.state_dict().items())
    assert not optimizer.state
    return found


def test_a_lower_rate_or_a_longer_accumulation_lags_more() -> None:
    fast, slow, accumulated = _lag(1e-2, 1), _lag(2e-3, 1), _lag(1e-2, 8)
    assert fast is not None
    assert slow is not None
    assert accumulated is not None
    assert 1 < fast < slow
    assert fast < accumulated
    assert accumulated % 8 == 0


def test_a_lag_beyond_the_limit_is_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MOST_STEPS", 40)
    assert _lag(1e-6, 4) is None
