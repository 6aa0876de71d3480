from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.training import Inertia
from pipeline.metanet.inertia import InertiaState, filtered, observe, targets

N, K = 5, 3
EVERYTHING = torch.ones(N, K, dtype=torch.bool)
INDEX = torch.arange(N)
seeds = st.integers(0, 10_000)
inertias = st.builds(
    Inertia, kind=st.just("ema"), gamma=st.floats(0, 0.99), gamma_perspective=st.floats(0, 0.999), prior_visits=st.floats(0, 10)
)  # fmt: skip


def _losses(seed: int) -> torch.Tensor:
    return torch.rand(N, K, generator=torch.Generator().manual_seed(seed)) * 4


@given(inertias, st.floats(0, 20), st.integers(1, 30))
def test_a_constant_loss_is_filtered_to_itself(config: Inertia, loss: float, visits: int) -> None:
    state = InertiaState.empty(N, K)
    for _ in range(visits):
        observe(state, config, INDEX, torch.full((N, K), loss), EVERYTHING)
    assert torch.allclose(filtered(state, config, INDEX), torch.full((N, K), loss), rtol=1e-3, atol=1e-4)


@given(inertias, seeds, seeds)
def test_unobserved_entries_do_not_change(config: Inertia, first: int, second: int) -> None:
    state = InertiaState.empty(N, K)
    observe(state, config, INDEX, _losses(first), EVERYTHING)
    before = {name: value.clone() for name, value in state.tensors().items()}
    seen_QK = _losses(second)[:2] < 2
    observe(state, config, torch.tensor([3, 1]), _losses(second)[:2], seen_QK)
    untouched_NK = EVERYTHING.clone()
    untouched_NK[torch.tensor([3, 1])] = ~seen_QK
    for name in ("mean_NK", "visits_NK", "last_NK"):
        assert torch.equal(state.tensors()[name][untouched_NK], before[name][untouched_NK])
    assert torch.equal(state.visits_NK[~untouched_NK], before["visits_NK"][~untouched_NK] + 1)
    assert torch.equal(state.mean_K[~seen_QK.any(0)], before["mean_K"][~seen_QK.any(0)])


@given(seeds, st.floats(0.1, 10))
def test_the_first_visit_is_shrunk_towards_the_mean_of_its_perspective(seed: int, prior: float) -> None:
    config = Inertia(kind="ema", prior_visits=prior)
    state = InertiaState.empty(N, K)
    losses_NK = _losses(seed)
    observe(state, config, INDEX, losses_NK, EVERYTHING)
    mean_K = losses_NK.mean(0)
    expected_NK = mean_K + (losses_NK - mean_K) / (1 + prior)
    assert torch.allclose(filtered(state, config, INDEX), expected_NK, atol=1e-3)


@pytest.mark.parametrize("prior", [0.0, 2.0])
def test_an_unseen_question_has_the_mean_of_its_perspective(prior: float) -> None:
    config = Inertia(kind="ema", prior_visits=prior)
    state = InertiaState.empty(N, K)
    observe(state, config, torch.tensor([0, 1]), torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]), EVERYTHING[:2])
    assert torch.allclose(filtered(state, config, torch.tensor([4])), torch.tensor([[2.0, 3.0, 4.0]]), atol=1e-4)


@given(seeds)
def test_a_larger_gamma_makes_the_filter_slower(seed: int) -> None:
    moved = []
    for gamma in (0.2, 0.9):
        config = Inertia(kind="ema", gamma=gamma, prior_visits=0)
        state = InertiaState.empty(N, K)
        for _ in range(5):
            observe(state, config, INDEX, torch.ones(N, K), EVERYTHING)
        observe(state, config, INDEX, 2 + _losses(seed), EVERYTHING)
        moved.append(filtered(state, config, INDEX) - 1)
    assert (moved[0] > moved[1]).all()


@pytest.mark.parametrize("kind", ["optimizer", "none"])
@given(first=seeds, second=seeds)
def test_without_the_ema_filter_the_last_loss_is_used(kind: str, first: int, second: int) -> None:
    config = Inertia(kind=kind)  # type: ignore[arg-type]
    state = InertiaState.empty(N, K)
    for seed in (first, second):
        observe(state, config, INDEX, _losses(seed), EVERYTHING)
    assert torch.equal(filtered(state, config, INDEX), _losses(second))


@given(seeds, seeds)
def test_z_scored_targets_have_mean_zero_and_reverse_the_loss_order(seed: int, mask_seed: int) -> None:
    losses_QK = _losses(seed)
    mask_QK = (_losses(mask_seed) < 3) | (torch.arange(K) == 0)
    u_QK = targets(losses_QK, mask_QK, "z")
    assert (u_QK[~mask_QK] == float("-inf")).all()
    for u_K, loss_K, mask_K in zip(u_QK, losses_QK, mask_QK, strict=True):
        assert float(u_K[mask_K].mean()) == pytest.approx(0, abs=1e-4)
        assert float(u_K[mask_K].std(correction=0)) <= 1 + 1e-4
        assert torch.equal(u_K[mask_K].argsort(), (-loss_K[mask_K]).argsort())


@given(seeds, st.floats(-3, 3), st.floats(1, 5))
def test_z_scored_targets_ignore_shift_and_scale(seed: int, shift: float, scale: float) -> None:
    losses_QK = torch.tensor([[0.0, 1.0, 3.0]]).repeat(N, 1) + 0.5 * _losses(seed)
    plain_QK, moved_QK = (targets(item, EVERYTHING, "z") for item in (losses_QK, losses_QK * scale + shift))
    assert torch.allclose(plain_QK, moved_QK, atol=2e-2)


def test_raw_targets_are_the_negated_losses() -> None:
    mask_QK = torch.tensor([[True, False, True]])
    expected_QK = torch.tensor([[-1.0, float("-inf"), -3.0]])
    assert torch.equal(targets(torch.tensor([[1.0, 2.0, 3.0]]), mask_QK, "raw"), expected_QK)


def test_equal_losses_give_equal_targets() -> None:
    assert torch.equal(targets(torch.full((1, 3), 2.0), torch.ones(1, 3, dtype=torch.bool), "z"), torch.zeros(1, 3))
