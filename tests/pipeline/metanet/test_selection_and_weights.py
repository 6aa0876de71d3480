from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.config.training import Mixture
from pipeline.metanet import selection_and_weights as mixture
from pipeline.metanet.selection_and_weights import MixtureWeights, effective_number

OFF = float("-inf")


def weigh(scores_QK: Tensor, mask_QK: Tensor, config: Mixture, temperature: float, seed: int = 0) -> MixtureWeights:
    return mixture.select_and_weigh(scores_QK, mask_QK, config, temperature, torch.Generator().manual_seed(seed))


@st.composite
def questions(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores (Q, K), minus infinity where masked, and the mask, at least one rationale per question."""
    many, wide = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    score = st.floats(-30, 30, width=32)
    scores = torch.tensor(draw(st.lists(st.lists(score, min_size=wide, max_size=wide), min_size=many, max_size=many)))
    mask = torch.tensor(draw(st.lists(st.lists(st.booleans(), min_size=wide, max_size=wide), min_size=many, max_size=many)))
    mask[:, draw(st.integers(0, wide - 1))] = True
    return scores.masked_fill(~mask, OFF), mask


mixtures: st.SearchStrategy[Mixture] = st.builds(
    Mixture,
    weights=st.sampled_from(["metanet", "uniform"]), beta=st.floats(0, 1), temperature=st.floats(0.1, 5),
    epsilon=st.floats(0, 1), min_effective=st.floats(1, 3),
)  # fmt: skip


@given(questions(), mixtures, st.floats(0.3, 5))
def test_weights_sum_to_one_and_are_zero_for_dropped_rationales(
    question: tuple[Tensor, Tensor], config: Mixture, temperature: float
) -> None:
    scores_QK, mask_QK = question
    weights = weigh(scores_QK, mask_QK, config, temperature)
    assert torch.allclose(weights.alpha_QK.sum(-1), torch.ones(len(mask_QK)), atol=1e-5)
    assert (weights.alpha_QK >= 0).all()
    assert (weights.alpha_QK[~weights.kept_QK] == 0).all()
    assert not (weights.kept_QK & ~mask_QK).any()


@given(questions(), mixtures)
def test_at_least_two_are_kept_where_two_exist(question: tuple[Tensor, Tensor], config: Mixture) -> None:
    scores_QK, mask_QK = question
    weights = weigh(scores_QK, mask_QK, config, 1.0)
    assert (weights.kept_QK.sum(-1) >= mask_QK.sum(-1).clamp(max=2)).all()


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_the_second_best_is_kept_at_any_distance(temperature: float) -> None:
    scores_QK = torch.tensor([[0.0, OFF, -200.0, -900.0], [-500.0, OFF, OFF, 100.0]])
    weights = weigh(scores_QK, scores_QK.isfinite(), Mixture(), temperature)
    assert weights.kept_QK.tolist() == [[True, False, True, False], [True, False, False, True]]
    assert weights.widened_Q.tolist() == [True, True]
    assert (effective_number(weights.alpha_QK) >= 1.49).all()


@given(questions(), mixtures, st.floats(-20, 20, width=32))
def test_shifting_all_scores_changes_nothing(question: tuple[Tensor, Tensor], config: Mixture, shift: float) -> None:
    scores_QK, mask_QK = question
    whole_QK = (scores_QK * 4).round() / 4
    moved = round(shift * 4) / 4
    one, other = (weigh(item, mask_QK, config, 1.0) for item in (whole_QK, whole_QK + moved))
    assert torch.equal(one.kept_QK, other.kept_QK)
    assert torch.allclose(one.alpha_QK, other.alpha_QK, atol=1e-5)


@given(questions(), mixtures)
def test_the_effective_number_reaches_its_floor(question: tuple[Tensor, Tensor], config: Mixture) -> None:
    scores_QK, mask_QK = question
    weights = weigh(scores_QK, mask_QK, config, 1.0)
    floor_Q = weights.kept_QK.sum(-1).clamp(max=config.min_effective)
    assert (effective_number(weights.alpha_QK) >= floor_Q * (1 - 1e-3)).all()


@given(questions(), st.floats(0, 1), st.floats(0, 1))
def test_uniform_weights_are_one_over_n(question: tuple[Tensor, Tensor], beta: float, epsilon: float) -> None:
    scores_QK, mask_QK = question
    weights = weigh(scores_QK, mask_QK, Mixture(weights="uniform", beta=beta, epsilon=epsilon), 1.0)
    assert torch.equal(weights.kept_QK, mask_QK)
    assert torch.allclose(weights.alpha_QK, mask_QK / mask_QK.sum(-1, keepdim=True))


@given(questions())
def test_beta_zero_keeps_all(question: tuple[Tensor, Tensor]) -> None:
    scores_QK, mask_QK = question
    assert torch.equal(weigh(scores_QK, mask_QK, Mixture(beta=0), 1.0).kept_QK, mask_QK)


@given(questions(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_beta_keeps_no_more(question: tuple[Tensor, Tensor], one: float, other: float) -> None:
    scores_QK, mask_QK = question
    low, high = (weigh(scores_QK, mask_QK, Mixture(beta=beta), 1.0) for beta in sorted((one, other)))
    assert (high.kept_QK <= low.kept_QK).all()


@given(questions(), mixtures.filter(lambda config: config.weights == "metanet"))
def test_a_better_score_never_weighs_less(question: tuple[Tensor, Tensor], config: Mixture) -> None:
    scores_QK, mask_QK = question
    weights = weigh(scores_QK, mask_QK, config, 1.0)
    for score_K, alpha_K, kept_K in zip(scores_QK, weights.alpha_QK, weights.kept_QK, strict=True):
        ordered = alpha_K[kept_K][score_K[kept_K].argsort()]
        assert (ordered.diff() >= -1e-6).all()


def test_selection_compares_shares_with_beta_times_the_best() -> None:
    scores_QK = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.1]]))
    kept: Any = weigh(scores_QK, torch.ones(1, 4, dtype=torch.bool), Mixture(beta=0.29), 1.0).kept_QK
    assert kept.tolist() == [[True, True, True, False]]


def test_raw_scores_are_compared_as_printed() -> None:
    scores_QK = torch.tensor([[2.0, 1.0, 0.9, OFF], [2.0, -1.0, -0.1, 0.1], [0.0, -1.0, OFF, OFF]])
    kept = weigh(scores_QK, scores_QK.isfinite(), Mixture(selection="scores", beta=0.5, min_kept=1), 1.0)
    assert kept.kept_QK.tolist() == [[True, True, False, False], [True, False, False, False], [True, False, False, False]]
    assert not kept.widened_Q.any()


@pytest.mark.parametrize("least", [1, 2, 3])
def test_negative_raw_scores_keep_the_best_and_are_counted(least: int) -> None:
    scores_QK = torch.tensor([[-1.0, -3.0, -1.5, -2.0], [-0.1, OFF, OFF, -0.2], [1.0, 0.9, 0.8, 0.0]])
    mixture = Mixture(selection="scores", beta=0.5, min_kept=least)
    kept = weigh(scores_QK, scores_QK.isfinite(), mixture, 1.0)
    assert kept.kept_QK.sum(-1).tolist() == [least, min(least, 2), 3]
    assert kept.kept_QK[0].nonzero()[:, 0].tolist() == [[0], [0, 2], [0, 2, 3]][least - 1]
    assert kept.widened_Q.tolist() == [True, True, False]


@given(questions(), st.floats(0, 1))
def test_without_guards_weights_are_the_plain_softmax_of_scores(drawn: tuple[Tensor, Tensor], beta: float) -> None:
    scores_QK, mask_QK = drawn
    plain = Mixture(selection="scores", beta=beta, epsilon=0.0, min_kept=1, min_effective=1.0, temperature=0.7)
    weights = weigh(scores_QK, mask_QK, plain, 1.0)
    expected_QK = torch.softmax((scores_QK / 0.7).masked_fill(~weights.kept_QK, OFF), -1)
    torch.testing.assert_close(weights.alpha_QK, expected_QK)
    assert (weights.kept_QK.sum(-1) >= 1).all()


def test_weights_carry_no_gradient() -> None:
    scores_QK = torch.randn(2, 4, requires_grad=True)
    weights: MixtureWeights = weigh(scores_QK, torch.ones(2, 4, dtype=torch.bool), Mixture(), 1.0)
    assert not weights.alpha_QK.requires_grad


def test_the_effective_number_counts_equal_weights() -> None:
    alpha_QK = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    assert torch.allclose(effective_number(alpha_QK), torch.tensor([1.0, 2.0, 4.0]))


@given(questions(), st.integers(0, 99))
def test_shuffled_weights_are_a_permutation_of_the_scored_ones(drawn: tuple[Tensor, Tensor], seed: int) -> None:
    scores_QK, mask_QK = drawn
    own = weigh(scores_QK, mask_QK, Mixture(), 1.0)
    dealt = weigh(scores_QK, mask_QK, Mixture(order="shuffled"), 1.0, seed)
    assert not (dealt.kept_QK & ~mask_QK).any()
    torch.testing.assert_close(own.alpha_QK.sort(-1).values, dealt.alpha_QK.sort(-1).values)


def test_shuffled_weights_have_equal_means_over_perspectives() -> None:
    scores_QK = torch.tensor([[3.0, 1.0, 0.5, OFF, 0.0]]).expand(4000, -1)
    dealt = weigh(scores_QK, scores_QK.isfinite(), Mixture(order="shuffled"), 1.0)
    assert dealt.alpha_QK.mean(0).tolist() == pytest.approx([0.25, 0.25, 0.25, 0, 0.25], abs=0.02)


@given(questions())
def test_inverted_order_gives_the_best_rationale_the_least_weight(drawn: tuple[Tensor, Tensor]) -> None:
    scores_QK, mask_QK = drawn
    own, turned = (weigh(scores_QK, mask_QK, Mixture(beta=0, order=order), 1.0).alpha_QK for order in ("scored", "inverted"))  # type: ignore[arg-type]
    best_Q1 = own.argmax(-1, keepdim=True)
    assert (turned.gather(-1, best_Q1) <= turned.masked_fill(~mask_QK, 2.0).min(-1, keepdim=True).values + 1e-6).all()


@given(questions(), st.integers(1, 9), st.integers(0, 99))
def test_draw_keeps_the_given_number_of_rationales(drawn: tuple[Tensor, Tensor], number: int, seed: int) -> None:
    scores_QK, mask_QK = drawn
    weights = weigh(scores_QK, mask_QK, Mixture(weights="uniform", beta=0, min_effective=1, draw=number), 1.0, seed)
    assert torch.equal(weights.kept_QK.sum(-1), mask_QK.sum(-1).clamp(max=number))
    torch.testing.assert_close(weights.alpha_QK.sum(-1), torch.ones(len(mask_QK)))
