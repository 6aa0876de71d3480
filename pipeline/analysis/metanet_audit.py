"""Audits MetaNet: rank correlations of its scores and weights, and a test whether its preferences differ between tasks.

Each row is one rationale, with its question and perspective. Two correlations are computed between two columns of numbers. *Across
perspectives*: among the rationales of one question, do high values in one column go with high values in the other? A preference for some
perspectives, independent of the question, is enough for a high correlation here. *Across questions*: the same among the rationales of one
perspective; this requires information about the question. Both are means of Spearman correlations, each computed within a group in which
only the other factor varies.

Axes: B rationales, N questions of the set, K perspectives, T tasks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipeline.analysis.statistics import Estimate, jackknife

Floats = NDArray[np.floating]
Indices = NDArray[np.integer]

LEAST = 3
"""Minimum number of rows in a group for computing its correlation."""


def rank_correlation(left_B: Floats, right_B: Floats, group_B: Indices) -> float:
    """Mean over groups of the Spearman correlation within each group; ties share their rank. nan if no group has a correlation.

    A group has none if it has fewer than `LEAST` rows or if either column is constant in it.
    """
    found = []
    for group in np.unique(group_B):
        mine = group_B == group
        left, right = rankdata(left_B[mine]), rankdata(right_B[mine])
        if len(left) >= LEAST and left.std() > 0 and right.std() > 0:
            found.append(float(np.corrcoef(left, right)[0, 1]))
    return float(np.mean(found)) if found else float("nan")


def correlations(
    left_B: Floats, right_B: Floats, question_B: Indices, perspective_B: Indices, seed: int
) -> dict[str, Estimate]:
    """`across_perspectives` and `across_questions`, each with its standard error over questions."""
    return {
        name: jackknife(lambda rows: rank_correlation(left_B[rows], right_B[rows], group_B[rows]), question_B, seed)  # noqa: B023
        for name, group_B in (("across_perspectives", question_B), ("across_questions", perspective_B))
    }


def _by_task(values_NK: Floats, task_N: Indices) -> Floats:
    """Sums (T, K) over each task's questions."""
    sum_TK = np.zeros((int(task_N.max()) + 1, values_NK.shape[1]))
    np.add.at(sum_TK, task_N, values_NK)
    return sum_TK


def preferences_by_task(preference_NK: Floats, task_N: Indices) -> Floats:
    """Mean preference (T, K) per task over its questions; nan marks a missing rationale and is ignored."""
    there_NK = ~np.isnan(preference_NK)
    with np.errstate(invalid="ignore"):
        means_TK: Floats = _by_task(np.where(there_NK, preference_NK, 0.0), task_N) / _by_task(there_NK, task_N)
    return means_TK


def _between_tasks(preference_NK: Floats, task_N: Indices) -> float:
    """Sum of squares of the task means around the overall mean, weighted by the number of rationales."""
    there_NK = ~np.isnan(preference_NK)
    filled_NK = np.where(there_NK, preference_NK, 0.0)
    moved_NK = np.where(there_NK, filled_NK - filled_NK.sum(0) / np.maximum(there_NK.sum(0), 1), 0.0)
    return float((_by_task(moved_NK, task_N) ** 2 / np.maximum(_by_task(there_NK, task_N), 1)).sum())


def task_permutation_test(preference_NK: Floats, task_N: Indices, seed: int, deals: int = 999) -> float:
    """p-value of a permutation test (Fisher, Pitman) of the hypothesis that preferences do not depend on the task; `deals` permutations."""
    rng, seen = np.random.default_rng(seed), _between_tasks(preference_NK, task_N)
    as_much = sum(_between_tasks(preference_NK, rng.permutation(task_N)) >= seen * (1 - 1e-12) for _ in range(deals))
    return (1 + as_much) / (1 + deals)
