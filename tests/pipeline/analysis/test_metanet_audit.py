"""MetaNet audit: correlations and tests find planted relations, and none in noise."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.metanet_audit import correlations, preferences_by_task, rank_correlation, task_permutation_test

QUESTIONS, PERSPECTIVES = 40, 8
QUESTION_B = np.repeat(np.arange(QUESTIONS), PERSPECTIVES)
PERSPECTIVE_B = np.tile(np.arange(PERSPECTIVES), QUESTIONS)
RNG = np.random.default_rng(0)
NOISE_B, OTHER_B = RNG.normal(size=(2, len(QUESTION_B)))


def test_the_rank_correlation_is_the_mean_over_groups() -> None:
    left_B, right_B = np.array([1.0, 2, 3, 1, 2, 3, 5, 6]), np.array([10.0, 20, 90, 3, 2, 1, 1, 1])
    group_B = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    assert rank_correlation(left_B, right_B, group_B) == pytest.approx(0)
    assert rank_correlation(left_B[:3], right_B[:3], group_B[:3]) == pytest.approx(1)
    assert np.isnan(rank_correlation(left_B[6:], right_B[6:], group_B[6:]))


def test_a_perspective_preference_correlates_across_perspectives_only() -> None:
    found = correlations(PERSPECTIVE_B + 0.01 * NOISE_B, PERSPECTIVE_B + 0.01 * OTHER_B, QUESTION_B, PERSPECTIVE_B, 0)
    assert found["across_perspectives"].value > 0.99
    assert abs(found["across_questions"].value) < 3 * found["across_questions"].error


def test_question_level_agreement_correlates_across_questions_too() -> None:
    found = correlations(NOISE_B, NOISE_B + 0.1 * OTHER_B, QUESTION_B, PERSPECTIVE_B, 0)
    assert min(estimate.value for estimate in found.values()) > 0.95
    none = correlations(NOISE_B, OTHER_B, QUESTION_B, PERSPECTIVE_B, 0)
    assert all(abs(estimate.value) < 3 * estimate.error for estimate in none.values())


def test_task_preferences_are_means_over_questions_with_the_perspective() -> None:
    preference_NK = np.array([[0.2, 0.8], [0.4, 0.6], [np.nan, 1.0]])
    assert preferences_by_task(preference_NK, np.array([0, 0, 1])) == pytest.approx(
        np.array([[0.3, 0.7], [np.nan, 1.0]]), nan_ok=True
    )


def test_the_task_test_finds_planted_differences_and_none_in_noise() -> None:
    task_N = np.arange(60) % 3
    preference_NK = np.random.default_rng(1).dirichlet(np.full(4, 5.0), size=60)
    assert task_permutation_test(preference_NK, task_N, 0) > 0.01
    preference_NK[task_N == 1, 0] += 0.2
    preference_NK[5, 1] = np.nan
    assert task_permutation_test(preference_NK, task_N, 0) == pytest.approx(0.001)
