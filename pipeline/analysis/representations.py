"""Measures how well a student's hidden states separate perspectives: clustering, linear probe, CKA, effective rank, t-SNE.

Pure functions on arrays. A row is one rationale; its state is pooled over the rationale's tokens by
`pipeline.student.hidden_states.layer_states`; perspectives and questions are integer indices, one per row. The paper clusters features of
eight students with a Dirichlet-process mixture and shows t-SNE. Measuring the student's own states, and the other measures here, are our
choice (method, section 7).

No figure is meaningful alone: styles differ in their words, so they cluster in any features. Always report the same figures for
`text_features` of the same rationales and for the student before distillation; only a difference from both is a finding.

The mixture is too flexible for this amount of data, so it is constrained in the same way for everything that is compared. It is fitted to
the first `MIXTURE_DIMENSIONS` principal components, since a full covariance in 50 dimensions needs more rows per cluster than there are.
The prior expectation of a component's covariance is the covariance of all states, so a cluster needs evidence. scikit-learn's default
expectation is 1/D of it and splits pure noise into every available component.

Axes: B rationales, D hidden size (E: that of a second model), R rank, C principal components, L layers, F features, Q questions of the set,
G groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples
from sklearn.mixture import BayesianGaussianMixture
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.student.batch import TokenRow

Floats = NDArray[np.floating]
Indices = NDArray[np.integer]

DIMENSIONS: Final = 50
MIXTURE_DIMENSIONS: Final = 16
COMPONENTS: Final = 24
ACTIVE_WEIGHT: Final = 0.01
FOLDS: Final = 5
TEXT_FEATURES: Final = 4096


def _decomposed(states_BD: Floats) -> tuple[Floats, Floats]:
    """Left singular vectors (B, R) and singular values (R,) of the centred states in fp64; R is their rank.

    Singular values within rounding error are dropped: of the input's precision and of the decomposition.
    """
    centred_BD = states_BD.astype(np.float64) - states_BD.mean(0, dtype=np.float64)
    vectors_BR, values_R, _ = np.linalg.svd(centred_BD, full_matrices=False)
    rows, dimensions = states_BD.shape
    given = float(np.finfo(states_BD.dtype).eps) * float(np.abs(states_BD).max()) * (math.sqrt(rows) + math.sqrt(dimensions))
    computed = float(np.finfo(np.float64).eps) * float(values_R[0]) * max(rows, dimensions)
    rank = int((values_R > given + computed).sum())
    return vectors_BR[:, :rank], values_R[:rank]


def principal_components(states_BD: Floats, most: int = DIMENSIONS) -> Floats:
    """Principal components (B, C), largest first; C is at most `most` and at most the states' rank.

    Raises:
        ValueError: all rows are identical, so there are no components.
    """
    vectors_BR, values_R = _decomposed(states_BD)
    if not len(values_R):
        raise ValueError(f"all {len(states_BD)} states are identical: nothing to analyse")
    return vectors_BR[:, :most] * values_R[:most]


class ClusterMixture(NamedTuple):
    """The component of each row (B,) and the number of components with more than 1 % of the weight."""

    cluster_B: Indices
    active: int


def mixture(components_BC: Floats, seed: int) -> ClusterMixture:
    """Clusters by a variational Dirichlet-process mixture of Gaussians (Blei and Jordan 2006), which infers their number.

    At most `COMPONENTS` components, on the first `MIXTURE_DIMENSIONS` columns, with full covariances; the best of three initialisations.
    """
    leading_BC = components_BC[:, :MIXTURE_DIMENSIONS]
    leading_BC = leading_BC / leading_BC.std()
    dimensions = leading_BC.shape[1]
    fitted = BayesianGaussianMixture(
        n_components=min(COMPONENTS, len(leading_BC)),
        weight_concentration_prior_type="dirichlet_process",
        # With as many degrees of freedom as dimensions, the Wishart prior's expected covariance is 1/D of this matrix.
        covariance_prior=dimensions * np.diag(leading_BC.var(0)),
        n_init=3,
        max_iter=1000,
        random_state=seed,
    ).fit(leading_BC)
    return ClusterMixture(fitted.predict(leading_BC), int((fitted.weights_ > ACTIVE_WEIGHT).sum()))


def agreement(cluster_B: Indices, perspective_B: Indices) -> tuple[float, float]:
    """Adjusted Rand index (Hubert and Arabie 1985) and normalised mutual information of clusters and perspectives.

    The Rand index is 1 for identical partitions, 0 on average for unrelated ones, and can be negative. The mutual information is in 0..1
    and not corrected for chance.
    """
    return (
        float(adjusted_rand_score(perspective_B, cluster_B)),
        float(normalized_mutual_info_score(perspective_B, cluster_B)),
    )


def agreement_range(
    states_BD: Floats, perspective_B: Indices, question_B: Indices, seed: int, parts: int = 5
) -> tuple[float, float]:
    """Lowest and highest adjusted Rand index of clusters and perspectives, leaving out each part of the questions in turn.

    A mixture can change with a few rows more or less: if the ranges of two sets of states overlap, neither clusters better.
    """
    questions, place_B = np.unique(question_B, return_inverse=True)
    part_Q = np.random.default_rng(seed).permutation(len(questions)) % parts
    found = []
    for part in range(parts):
        kept_B = part_Q[place_B] != part
        cluster_B = mixture(principal_components(states_BD[kept_B]), seed).cluster_B
        found.append(agreement(cluster_B, perspective_B[kept_B])[0])
    return min(found), max(found)


def silhouettes(components_BC: Floats, perspective_B: Indices) -> dict[int, float]:
    """Mean silhouette (Rousseeuw 1987) of each perspective's rows, with perspectives as clusters.

    From -1 to 1: near 1 if a perspective's rows are close together and far from the nearest other perspective; 0 if the perspective makes
    no difference.
    """
    value_B = silhouette_samples(components_BC, perspective_B)
    return {int(perspective): float(value_B[perspective_B == perspective].mean()) for perspective in np.unique(perspective_B)}


def probe_accuracy(states_BD: Floats, perspective_B: Indices, question_B: Indices, seed: int) -> float:
    """Accuracy of a linear probe that predicts the perspective of rows of unseen questions (Alain and Bengio 2017).

    Logistic regression on standardised states, five folds. All rows of a question are in the same fold, so its numbers and names do not
    help. The chance level is the share of the most frequent perspective.
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    named_B = cross_val_predict(classifier, states_BD.astype(np.float64), perspective_B, groups=question_B, cv=folds)
    return float((named_B == perspective_B).mean())


def cka(left_BD: Floats, right_BE: Floats) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019) of two models' states for the same B >= 4 rows.

    1 if one is a rotation, scaling and shift of the other; about 0 if unrelated; at least -1. Uses unbiased estimates of HSIC (Song et al.
    2012; for CKA Nguyen et al. 2021): with the biased ones, two independent clouds of D dimensions have about D/(B + D), which is close to
    1 for a real model's states.

    Raises:
        ValueError: the numbers of rows differ, or there are fewer than four.
    """
    if len(left_BD) != len(right_BE) or len(left_BD) < 4:
        raise ValueError(f"{len(left_BD)} and {len(right_BE)} rows: CKA needs the same rows on both sides, at least four")
    left_BB, right_BB = _centred_gram(left_BD), _centred_gram(right_BE)
    size = float(np.linalg.norm(left_BB) * np.linalg.norm(right_BB))
    return float((left_BB * right_BB).sum()) / size if size else float("nan")


def _centred_gram(states_BD: Floats) -> Floats:
    """The U-centred Gram matrix: its diagonal, the source of the bias, is excluded."""
    centred_BD = states_BD.astype(np.float64) - states_BD.mean(0, dtype=np.float64)
    gram_BB: Floats = centred_BD @ centred_BD.T
    np.fill_diagonal(gram_BB, 0)
    rows = len(gram_BB)
    mean_B = gram_BB.sum(0) / (rows - 2)
    gram_BB += mean_B.sum() / (rows - 1) - mean_B[:, None] - mean_B
    np.fill_diagonal(gram_BB, 0)
    return gram_BB


def cka_by_layer(left_BLD: Floats, right_BLE: Floats) -> Floats:
    """`cka` of two models' states layer by layer (L,), for example of a student and its base.

    Raises:
        ValueError: the models have different numbers of layers.
    """
    if left_BLD.shape[1] != right_BLE.shape[1]:
        raise ValueError(f"{left_BLD.shape[1]} and {right_BLE.shape[1]} layers: compare models of the same depth")
    return np.array([cka(left_BLD[:, layer], right_BLE[:, layer]) for layer in range(left_BLD.shape[1])])


def effective_rank(states_BD: Floats) -> float:
    """exp of the entropy of the normalised singular values (Roy and Vetterli 2007) of the centred states.

    From 1 (all states on a line) to min(B − 1, D) (all directions alike); 0 if all states are identical. A low, falling value would
    indicate "degeneration". It grows with B unless B is many times D: compare equal numbers of rows.
    """
    _, values_R = _decomposed(states_BD)
    shares_R = values_R / values_R.sum()
    return float(np.exp(-(shares_R * np.log(shares_R)).sum())) if len(values_R) else 0.0


class Shares(NamedTuple):
    """Shares of the states' variance by source; they sum to one."""

    question: float
    perspective: float
    rest: float


def variance_shares(states_BD: Floats, question_B: Indices, perspective_B: Indices) -> Shares:
    """Splits the states' variance into between questions, between perspectives within questions, and the rest.

    For states at the answer, the first share should be nearly all: an answer should depend on its question, not on the reasoning that led
    to it. The rest is the difference between rationales of a question beyond the mean of their perspective.
    """
    centred_BD = states_BD.astype(np.float64) - states_BD.mean(0, dtype=np.float64)
    total = float((centred_BD**2).sum())
    if total == 0:
        return Shares(float("nan"), float("nan"), float("nan"))
    inside_BD = centred_BD - group_means(centred_BD, question_B)
    left_BD = inside_BD - group_means(inside_BD, perspective_B)
    inside, left = float((inside_BD**2).sum()), float((left_BD**2).sum())
    return Shares(1 - inside / total, (inside - left) / total, left / total)


def group_means(states_BD: Floats, group_B: Indices) -> Floats:
    """The mean of each row's group (B, D)."""
    groups, place_B = np.unique(group_B, return_inverse=True)
    sum_GD = np.zeros((len(groups), states_BD.shape[1]))
    np.add.at(sum_GD, place_B, states_BD)
    mean_BD: Floats = (sum_GD / np.bincount(place_B)[:, None])[place_B]
    return mean_BD


def tsne(components_BC: Floats, seed: int) -> Floats:
    """t-SNE (van der Maaten and Hinton 2008) coordinates (B, 2), for visualisation; distances between separate groups have no meaning."""
    perplexity = min(30.0, (len(components_BC) - 1) / 3)
    points_B2: Floats = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(components_BC)
    return points_B2


def text_features(rows: Sequence[TokenRow], most: int = TEXT_FEATURES) -> Floats:
    """TF-IDF of 1- to 3-grams of each rationale's tokens (B, F), F at most `most`: the control that uses only the words.

    Uses the same tokens that `layer_states` pools over.
    """
    texts = [[str(token) for token in row.tokens[row.start :]] for row in rows]
    vectoriser = TfidfVectorizer(analyzer=_grams, max_features=most, sublinear_tf=True, dtype=np.float32)
    features_BF: Floats = vectoriser.fit_transform(texts).toarray()
    return features_BF


def _grams(tokens: list[str]) -> list[str]:
    return [" ".join(tokens[first : first + size]) for size in (1, 2, 3) for first in range(len(tokens) - size + 1)]


@dataclass(frozen=True)
class Analysis:
    """Separation of perspectives by one layer's states or by text features; each figure is defined at the function that computes it.

    `chance` is the probe's accuracy without any states; `silhouette` is the mean over rows.
    """

    rows: int
    active_components: int
    ari: float
    nmi: float
    silhouette: float
    silhouette_by_perspective: dict[int, float]
    probe_accuracy: float
    chance: float
    effective_rank: float
    cluster_B: Indices


def analyse(states_BD: Floats, perspective_B: Indices, question_B: Indices, seed: int) -> Analysis:
    """All figures for one model's states at one layer; deterministic in its arguments."""
    components_BC = principal_components(states_BD)
    found = mixture(components_BC, seed)
    ari, nmi = agreement(found.cluster_B, perspective_B)
    by_perspective = silhouettes(components_BC, perspective_B)
    counts = {int(perspective): int((perspective_B == perspective).sum()) for perspective in by_perspective}
    return Analysis(
        rows=len(states_BD),
        active_components=found.active,
        ari=ari,
        nmi=nmi,
        silhouette=sum(by_perspective[key] * counts[key] for key in counts) / len(states_BD),
        silhouette_by_perspective=by_perspective,
        probe_accuracy=probe_accuracy(states_BD, perspective_B, question_B, seed),
        chance=max(counts.values()) / len(states_BD),
        effective_rank=effective_rank(states_BD),
        cluster_B=found.cluster_B,
    )
