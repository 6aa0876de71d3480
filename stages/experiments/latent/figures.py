"""Computes the figures of the latent analysis, as plain data, from the states of the models.

Every figure with `value` and `error` has its standard error over questions. It describes these trained models only, not the variation
between training seeds.

Axes: B rationales, Q questions, K perspectives (in `states_KBD`: one specialist each), L layers, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.representations import (
    FOLDS,
    agreement_range,
    analyse,
    cka,
    cka_by_layer,
    effective_rank,
    group_means,
    probe_accuracy,
    text_features,
    variance_shares,
)
from pipeline.analysis.statistics import jackknife
from stages.experiments.latent.reading import AnswerDependence, Reading
from stages.experiments.latent.rows import Rows

Floats = NDArray[np.floating]
Indices = NDArray[np.integer]


class Last(NamedTuple):
    """The last layer's states of one model: over rationales (B, D), and at the end of prompts (Q, D)."""

    rationale_BD: Floats
    prompt_QD: Floats


def clusters(states_BD: Floats, label_B: Indices, question_B: Indices, names: Sequence[str], seed: int) -> dict[str, Any]:
    """Agreement of clusters with labels, named by `names`: the figures of `pipeline.analysis.representations.analyse`."""
    found = analyse(states_BD, label_B, question_B, seed)
    return {
        "ari": found.ari,
        "nmi": found.nmi,
        "active_components": found.active_components,
        "silhouette": found.silhouette,
        "silhouette_by_perspective": {names[label]: value for label, value in found.silhouette_by_perspective.items()},
        "probe": {"accuracy": found.probe_accuracy, "chance": found.chance},
        "effective_rank": jackknife(lambda rows: effective_rank(states_BD[rows]), question_B, seed)._asdict(),
    }


def _probe(states_BD: Floats, label_B: Indices, question_B: Indices, seed: int) -> dict[str, float] | None:
    """Accuracy of a linear probe on labels frequent enough to occur in every fold; None if fewer than two such labels exist."""
    labels, counts = np.unique(label_B, return_counts=True)
    kept_B = np.isin(label_B, labels[counts >= FOLDS])
    if len(np.unique(label_B[kept_B])) < 2:
        return None
    accuracy = probe_accuracy(states_BD[kept_B], label_B[kept_B], question_B[kept_B], seed)
    return {"accuracy": accuracy, "chance": float(np.unique(label_B[kept_B], return_counts=True)[1].max() / kept_B.sum())}


def _likeliest(loss_B: Floats, rows: Rows) -> Indices:
    """The perspective of each question's rationale with the lowest loss (Q,)."""
    order_B = np.lexsort((loss_B, rows.question_B))
    likeliest_Q: Indices = rows.perspective_B[order_B[np.searchsorted(rows.question_B, np.arange(len(rows.ids)))]]
    return likeliest_Q


def _before(reading: Reading, base: Reading, rows: Rows, task_Q: Indices, seed: int) -> dict[str, Any]:
    """Figures at the last token of the prompt."""
    question_Q, likeliest_Q = np.arange(len(rows.ids)), _likeliest(reading.loss_B, rows)
    share_K = np.bincount(likeliest_Q) / len(likeliest_Q)
    share_K = share_K[share_K > 0]
    states_QD = reading.prompt_QD
    return {
        "effective_rank": jackknife(lambda some: effective_rank(states_QD[some]), question_Q, seed)._asdict(),
        "cka": jackknife(lambda some: cka(base.prompt_QD[some], states_QD[some]), question_Q, seed)._asdict(),
        "likeliest": _probe(states_QD, likeliest_Q, question_Q, seed),
        "perspectives": float(np.exp(-(share_K * np.log(share_K)).sum())),
        "task": _probe(states_QD, task_Q, question_Q, seed),
    }


def _at_the_answer(answers: AnswerDependence, rows: Rows, seed: int) -> dict[str, Any]:
    """Whether the states at the answer depend on the rationale."""
    question_B, perspective_B, states_BD = rows.question_B, rows.perspective_B, answers.states_BD
    question_Q = np.arange(len(rows.ids))

    def inside(some: NDArray[np.bool_]) -> float:
        return 1 - variance_shares(states_BD[some], question_B[some], perspective_B[some]).question

    def mean(values: Floats, of: Indices) -> dict[str, float]:
        known = values[~np.isnan(values)]
        return jackknife(lambda some: float(known[some].mean()), of[~np.isnan(values)], seed)._asdict()

    return {
        "inside_questions": jackknife(inside, question_B, seed)._asdict(),
        "of_perspectives": variance_shares(states_BD, question_B, perspective_B).perspective,
        "probe": _probe(states_BD, perspective_B, question_B, seed),
        "divergence": mean(answers.divergence_Q, question_Q),
        "alike": mean(answers.alike_Q, question_Q),
        "right": mean(answers.right_B, question_B),
    }


def model_figures(reading: Reading, base: Reading, rows: Rows, task_Q: Indices, seed: int) -> dict[str, Any]:
    """All figures of one model except its clusters."""
    last_BD, base_BD = reading.rationale_BLD[:, -1], base.rationale_BLD[:, -1]
    return {
        "loss": float(reading.loss_B.mean()),
        "cka": jackknife(lambda some: cka(base_BD[some], last_BD[some]), rows.question_B, seed)._asdict(),
        "cka_by_layer": cka_by_layer(base.rationale_BLD, reading.rationale_BLD).tolist(),
        "prompt": _before(reading, base, rows, task_Q, seed),
        "answer": {where: _at_the_answer(answers, rows, seed) for where, answers in reading.answers.items()},
    }


class CombinedStates(NamedTuple):
    """Combined states of the specialists and of their controls, by name; `reader_B` is the random reader of each rationale."""

    states: dict[str, Floats]
    reader_B: Indices


def together(base: Last, specialists: Sequence[Last], rows: Rows, seed: int) -> CombinedStates:
    """Combine each rationale's state from the specialist of its own perspective, and four controls. `specialists` has one per perspective.

    The control "text" uses no model; "base" was trained on no perspective. "moved" is the base shifted by each specialist's mean: it
    contains nothing of the specialists but a constant for each. "dealt" assigns rationales to specialists at random, which separates
    clusters of texts from clusters of networks.
    """
    perspective_B, base_BD = rows.perspective_B, base.rationale_BD
    states_KBD = np.stack([last.rationale_BD for last in specialists])
    row_B, reader_B = (
        np.arange(len(perspective_B)),
        np.random.default_rng(seed).integers(len(specialists), size=len(perspective_B)),
    )
    own_BD = states_KBD[perspective_B, row_B]
    states = {
        "text": text_features(rows.rationales),
        "base": base_BD,
        "moved": base_BD + group_means(own_BD - base_BD, perspective_B),
        "dealt": states_KBD[reader_B, row_B],
        "specialists": own_BD,
    }
    return CombinedStates(states, reader_B)


def compared(found: CombinedStates, rows: Rows, seed: int) -> dict[str, dict[str, Any]]:
    """Clusters of each against the perspectives; for randomly assigned rationales also against the reading specialist."""
    labels, figures = (rows.perspective_B, rows.question_B), {}
    for name, states_BD in found.states.items():
        mine = clusters(states_BD, *labels, rows.names, seed)
        ends = (mine["ari"], *agreement_range(states_BD, *labels, seed))
        figures[name] = {**mine, "ari_range": (min(ends), max(ends))}
    figures["dealt"]["by_reader"] = clusters(found.states["dealt"], found.reader_B, rows.question_B, rows.names, seed)
    return figures


def networks(models: Mapping[str, Last], seed: int) -> dict[str, Any]:
    """Whether networks that have read only the prompts can be distinguished by their states at the end of them."""
    states = [last.prompt_QD for last in models.values()]
    question_B = np.tile(np.arange(len(states[0])), len(states))
    network_B = np.repeat(np.arange(len(states)), len(states[0]))
    return {"networks": list(models), **clusters(np.concatenate(states), network_B, question_B, list(models), seed)}
