"""Analyses of hidden states: planted structure is found, and none is found in noise."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.analysis.representations import (
    agreement,
    agreement_range,
    analyse,
    cka,
    cka_by_layer,
    effective_rank,
    mixture,
    principal_components,
    probe_accuracy,
    silhouettes,
    text_features,
    tsne,
    variance_shares,
)
from pipeline.config.models import LocalModel
from pipeline.model_folders import load_causal_model
from pipeline.student.batch import TokenRow
from pipeline.student.hidden_states import layer_states, span_states
from tests.support.runs import REPOSITORY

Floats = NDArray[np.floating]
Indices = NDArray[np.integer]

QUESTIONS, PERSPECTIVES, DIMENSIONS = 40, 6, 64
QUESTION_B = np.repeat(np.arange(QUESTIONS), PERSPECTIVES)
PERSPECTIVE_B = np.tile(np.arange(PERSPECTIVES), QUESTIONS)
SHUFFLED_B = np.random.default_rng(5).permutation(PERSPECTIVE_B)


def planted(apart: float, seed: int = 0) -> Floats:
    """States with one centre per perspective, `apart` noise widths between them, and one offset per question."""
    rng = np.random.default_rng(seed)
    places_KD = rng.normal(size=(PERSPECTIVES, DIMENSIONS)) * apart
    questions_QD = rng.normal(size=(QUESTIONS, DIMENSIONS)) * 0.3
    noise_BD = rng.normal(size=(len(QUESTION_B), DIMENSIONS)) * np.linspace(1.5, 0.5, DIMENSIONS)
    return (places_KD[PERSPECTIVE_B] + questions_QD[QUESTION_B] + noise_BD).astype(np.float32)


def noise(rows: int, dimensions: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(rows, dimensions))


def turned(states_BD: Floats, seed: int) -> Floats:
    rotation_DD, _ = np.linalg.qr(noise(states_BD.shape[1], states_BD.shape[1], seed))
    return states_BD @ rotation_DD


def test_planted_clusters_are_found_and_counted() -> None:
    found = mixture(principal_components(planted(apart=1)), seed=0)
    assert agreement(found.cluster_B, PERSPECTIVE_B) == pytest.approx((1, 1), abs=0.03)
    assert found.active == PERSPECTIVES


@pytest.mark.parametrize("dimensions", [8, 64, 512])
def test_the_mixture_finds_no_clusters_in_noise(dimensions: int) -> None:
    assert mixture(principal_components(noise(240, dimensions, 0)), seed=0).active == 1


@pytest.mark.parametrize(("scale", "shift"), [(1e-4, 0.0), (1e4, 1e4), (1.0, -100.0)])
def test_clusters_do_not_depend_on_scale_or_shift_of_the_states(scale: float, shift: float) -> None:
    states_BD = planted(apart=1).astype(np.float64)
    plain, changed = (mixture(principal_components(item), seed=0) for item in (states_BD, states_BD * scale + shift))
    assert agreement(plain.cluster_B, changed.cluster_B)[0] == pytest.approx(1)


def test_clusters_do_not_agree_with_shuffled_perspectives() -> None:
    found = mixture(principal_components(planted(apart=1)), seed=0)
    assert agreement(found.cluster_B, SHUFFLED_B)[0] == pytest.approx(0, abs=0.05)


def test_the_agreement_range_is_narrow_for_clear_clusters_only() -> None:
    plain, faint = (agreement_range(planted(apart), PERSPECTIVE_B, QUESTION_B, seed=0) for apart in (1.5, 0.45))
    assert plain[0] > 0.95
    assert plain[1] - plain[0] < 0.05
    assert faint[1] - faint[0] > 0.05
    assert agreement_range(planted(1.5), SHUFFLED_B, QUESTION_B, seed=0)[1] < 0.1


def test_the_probe_reads_perspectives_and_is_at_chance_when_shuffled() -> None:
    assert probe_accuracy(planted(apart=1), PERSPECTIVE_B, QUESTION_B, 0) > 0.95
    chance = probe_accuracy(planted(apart=1), SHUFFLED_B, QUESTION_B, 0)
    assert chance == pytest.approx(1 / PERSPECTIVES, abs=0.08)


def test_the_probe_is_tested_on_held_out_questions() -> None:
    """Here the label follows from the question alone, so an honest probe scores at chance."""
    label_B = np.random.default_rng(0).integers(2, size=QUESTIONS)[QUESTION_B]
    places_QD = noise(QUESTIONS, DIMENSIONS, 0)
    states_BD = places_QD[QUESTION_B] + 0.01 * noise(len(QUESTION_B), DIMENSIONS, 1)
    assert probe_accuracy(states_BD, label_B, QUESTION_B, 0) < 0.75
    assert probe_accuracy(states_BD, label_B, np.arange(len(label_B)), 0) > 0.95


def test_silhouettes_are_high_for_separate_perspectives_only() -> None:
    components_BC = principal_components(planted(apart=3))
    apart, mixed = silhouettes(components_BC, PERSPECTIVE_B), silhouettes(components_BC, SHUFFLED_B)
    assert list(apart) == list(mixed) == list(range(PERSPECTIVES))
    assert min(apart.values()) > 0.5
    assert max(mixed.values()) < 0.05


@given(st.integers(0, 99), st.floats(0.01, 100), st.floats(-10, 10))
def test_cka_ignores_rotation_scale_and_shift(seed: int, scale: float, shift: float) -> None:
    states_BD = noise(50, 12, seed)
    assert cka(states_BD, turned(states_BD, seed + 1) * scale + shift) == pytest.approx(1)


@pytest.mark.parametrize("dimensions", [4, 64, 1024])
def test_cka_of_unrelated_states_is_near_zero_in_any_dimension(dimensions: int) -> None:
    values = [cka(noise(200, dimensions, seed), noise(200, dimensions, seed + 1)) for seed in range(0, 40, 2)]
    assert np.mean(values) == pytest.approx(0, abs=0.02)
    assert max(values) < 0.1


@given(st.integers(0, 99))
def test_cka_is_symmetric_and_falls_with_noise(seed: int) -> None:
    states_BD, other_BD = noise(80, 10, seed), noise(80, 10, seed + 1)
    near, far = (cka(states_BD, states_BD + width * other_BD) for width in (0.3, 1.5))
    assert far < near < 1
    assert cka(other_BD, states_BD) == pytest.approx(cka(states_BD, other_BD))


def test_cka_by_layer_is_that_of_each_layer() -> None:
    left_BLD, right_BLE = noise(60, 3 * 8, 0).reshape(60, 3, 8), noise(60, 3 * 5, 1).reshape(60, 3, 5)
    right_BLE[:, 1] = left_BLD[:, 1, :5]
    wanted = [cka(left_BLD[:, layer], right_BLE[:, layer]) for layer in range(3)]
    assert cka_by_layer(left_BLD, right_BLE).tolist() == wanted
    assert int(np.argmax(wanted)) == 1
    with pytest.raises(ValueError, match="3 and 2 layers"):
        cka_by_layer(left_BLD, right_BLE[:, :2])


def test_cka_requires_the_same_rows() -> None:
    with pytest.raises(ValueError, match="the same rows"):
        cka(noise(8, 3, 0), noise(9, 3, 0))


def test_the_effective_rank_of_an_isotropic_cloud_is_its_dimension() -> None:
    assert effective_rank(noise(5000, 20, 0)) == pytest.approx(20, rel=0.01)


@given(st.integers(1, 8), st.integers(0, 99), st.sampled_from([np.float32, np.float64]), st.floats(-100, 100))
def test_the_effective_rank_is_at_most_the_rank(rank: int, seed: int, kind: Any, shift: float) -> None:
    states_BD = (noise(60, rank, seed) @ noise(rank, 30, seed + 1) + shift).astype(kind)
    found = effective_rank(states_BD)
    assert found >= 1 - 1e-9
    assert found <= rank + 1e-9


def test_the_effective_rank_matches_a_hand_calculation() -> None:
    axes = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    shares = np.array([3, 1]) / 4
    assert effective_rank(axes) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_identical_states_have_rank_zero_and_are_refused() -> None:
    same_BD = np.broadcast_to(noise(1, 16, 0), (40, 16)).astype(np.float32)
    assert effective_rank(same_BD) == 0
    with pytest.raises(ValueError, match=r"all .* identical"):
        principal_components(same_BD)


def test_components_are_uncorrelated_largest_first_and_no_more_than_the_rank() -> None:
    components_BC = principal_components(noise(100, 5, 0) @ noise(5, 80, 1))
    assert components_BC.shape == (100, 5)
    covariance_CC = np.cov(components_BC.T)
    assert np.diag(covariance_CC).tolist() == sorted(np.diag(covariance_CC), reverse=True)
    assert covariance_CC == pytest.approx(np.diag(np.diag(covariance_CC)), abs=1e-9)
    assert principal_components(noise(100, 80, 0)).shape == (100, 50)


def test_variance_is_assigned_to_the_factor_that_was_planted() -> None:
    by_question, by_perspective = noise(QUESTIONS, 8, 0)[QUESTION_B], noise(PERSPECTIVES, 8, 1)[PERSPECTIVE_B]
    assert variance_shares(by_question, QUESTION_B, PERSPECTIVE_B) == pytest.approx((1, 0, 0))
    assert variance_shares(by_perspective + 7, QUESTION_B, PERSPECTIVE_B) == pytest.approx((0, 1, 0))
    mixed = variance_shares(by_question + by_perspective + noise(len(QUESTION_B), 8, 2), QUESTION_B, PERSPECTIVE_B)
    assert sum(mixed) == pytest.approx(1)
    assert min(mixed) > 0.2
    assert np.isnan(variance_shares(np.ones((6, 2)), np.arange(6) // 2, np.arange(6) % 2)).all()


def test_neighbours_in_the_tsne_map_have_the_same_perspective() -> None:
    points_B2 = tsne(principal_components(planted(apart=1)), seed=0)
    distance_BB = np.linalg.norm(points_B2[:, None] - points_B2, axis=-1)
    np.fill_diagonal(distance_BB, np.inf)
    assert points_B2.shape == (len(PERSPECTIVE_B), 2)
    assert (PERSPECTIVE_B[distance_BB.argmin(1)] == PERSPECTIVE_B).mean() > 0.97


def test_an_analysis_repeats_with_its_seed() -> None:
    states_BD = planted(apart=0.4)
    once, again = (asdict(analyse(states_BD, PERSPECTIVE_B, QUESTION_B, seed=3)) for _ in range(2))
    for name, value in once.items():
        assert np.array_equal(value, again[name]), name


def test_an_analysis_equals_its_parts() -> None:
    states_BD = planted(apart=1)
    found = analyse(states_BD, PERSPECTIVE_B, QUESTION_B, seed=0)
    components_BC = principal_components(states_BD)
    assert found.rows == len(states_BD)
    assert (found.cluster_B == mixture(components_BC, 0).cluster_B).all()
    assert (found.ari, found.nmi) == agreement(found.cluster_B, PERSPECTIVE_B)
    assert found.silhouette == pytest.approx(np.mean(list(silhouettes(components_BC, PERSPECTIVE_B).values())))
    assert found.effective_rank == effective_rank(states_BD)
    assert found.chance == pytest.approx(1 / PERSPECTIVES)


def row(prompt: list[int], rationale: list[int]) -> TokenRow:
    return TokenRow(prompt + rationale, len(prompt), (0, 0))


def test_text_features_use_the_rationale_and_not_the_prompt() -> None:
    one, other = row([7, 8, 9], [1, 2, 3, 4]), row([5], [1, 2, 3, 4])
    features_BF = text_features([one, other, row([7, 8, 9], [4, 3, 2, 1])])
    assert (features_BF[0] == features_BF[1]).all()
    assert np.linalg.norm(features_BF, axis=1) == pytest.approx(1)
    # Four unigrams; for each of the two orders, three bigrams and two trigrams.
    assert features_BF.shape == (3, 4 + 2 * (3 + 2))
    # Same tokens in another order: shared unigrams, no shared bigrams.
    assert 0 < features_BF[0] @ features_BF[2] < 0.7


def test_text_features_cluster_styles_that_differ_in_words() -> None:
    rng = np.random.default_rng(0)
    rows = [
        row([0], [int(token) for pair in rng.integers(20, 30, size=(6, 1)) for token in (style, *pair, style + 10)])
        for style in PERSPECTIVE_B
    ]
    found = analyse(text_features(rows), PERSPECTIVE_B, QUESTION_B, seed=0)
    assert found.ari > 0.95
    assert found.probe_accuracy > 0.95


@pytest.fixture(scope="module")
def student() -> Any:
    source = LocalModel(path=REPOSITORY / "pipeline" / "miniature" / "models" / "student")
    return load_causal_model(source, torch.float32).eval()


rows_of_tokens = st.builds(row, *[st.lists(st.integers(2, 399), min_size=1, max_size=12)] * 2)


def states_of(student: Any, rows: list[TokenRow], at_once: int) -> torch.Tensor:
    return layer_states(student, rows, pad=0, device=torch.device("cpu"), rows_at_once=at_once)


@given(rows_of_tokens)
def test_a_layer_state_is_the_mean_over_the_rationale_tokens(student: Any, item: TokenRow) -> None:
    """Reference: one row without padding, its embeddings and the output of each block."""
    outputs = [student.model.embed_tokens(torch.tensor([item.tokens]))]
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for block in (*student.model.layers[:-1], student.model.norm)
    ]
    with torch.no_grad():
        student.model(input_ids=torch.tensor([item.tokens]))
    for hook in hooks:
        hook.remove()
    wanted_LD = torch.stack([output[0, item.start :].mean(0) for output in outputs])
    assert wanted_LD.shape == (student.config.num_hidden_layers + 1, student.config.hidden_size)
    torch.testing.assert_close(states_of(student, [item], 1)[0], wanted_LD.detach(), rtol=1e-5, atol=1e-5)


@given(st.lists(rows_of_tokens, min_size=2, max_size=7))
def test_states_do_not_depend_on_how_rows_are_batched(student: Any, rows: list[TokenRow]) -> None:
    whole, *parts = (states_of(student, rows, at_once) for at_once in (len(rows), 1, 3))
    for part in parts:
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)


def test_the_prompt_affects_a_state_only_through_the_model(student: Any) -> None:
    """Layer 0 has no context, so another prompt changes nothing there, and something in every layer above."""
    states_BLD = states_of(student, [row([5, 6, 7], [8, 9]), row([30, 40], [8, 9])], 2)
    torch.testing.assert_close(states_BLD[0, 0], states_BLD[1, 0])
    for layer in range(1, states_BLD.shape[1]):
        assert not torch.allclose(states_BLD[0, layer], states_BLD[1, layer], atol=1e-3)


@given(st.lists(rows_of_tokens, min_size=1, max_size=5))
def test_the_state_of_a_one_token_span_is_the_state_of_that_token(student: Any, rows: list[TokenRow]) -> None:
    ends = [(item.start - 1, item.start) for item in rows]
    found = span_states(student, rows, ends, pad=0, device=torch.device("cpu"), rows_at_once=3)
    for states_LD, item in zip(found, rows, strict=True):
        with torch.no_grad():
            prompt = student.model(input_ids=torch.tensor([item.tokens[: item.start]])).last_hidden_state[0, -1]
        torch.testing.assert_close(states_LD[-1], prompt, rtol=1e-4, atol=1e-5)
