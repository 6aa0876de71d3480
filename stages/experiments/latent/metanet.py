"""Analyses the trained MetaNet: its preferences by task, and the correlation of its scores and weights with loss and length.

A selected rationale is trained on, so its loss falls and it is selected again. Only questions that were not trained on, if there are any,
show whether the scores carry more information than this feedback. A correlation of weights with length, which is unrelated to ability,
shows on any question (method, section 6).

Axes: N questions of the set, Q questions that are read, K perspectives, F features, B rationales, T tasks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from pipeline.analysis.metanet_audit import correlations, preferences_by_task, task_permutation_test
from pipeline.config.run import RunConfig
from pipeline.metanet.network import MetaNet, preferences
from pipeline.metanet.selection_and_weights import select_and_weigh
from stages.experiments.latent.rows import Rows, names_of, read_sets
from stages.shared.mapped_tables import by_question
from storage.artifact import Artifact
from storage.atomic import read_parquet

Floats = NDArray[np.floating]


class RunArtifacts(NamedTuple):
    """One run of the experiment and the artifacts that are read of it."""

    name: str
    run: RunConfig
    questions: Artifact
    synthesis: Artifact
    training: Artifact


def _scores(made: RunArtifacts) -> tuple[dict[str, int], Tensor, Tensor]:
    """Over all kept questions: row numbers by id, the trained MetaNet's scores (N, K), and the mask (N, K) of existing rationales."""
    names, shape, metanet = names_of(made.run), made.run.synthesis.metanet, None
    ids: list[str] = []
    found: list[tuple[Tensor, Tensor]] = []
    for path in made.synthesis.files("features"):
        shard = read_parquet(path)
        if not shard.num_rows:
            continue
        mine, features_QKF, mask_QK = by_question(shard, names)
        if metanet is None:
            metanet = MetaNet(len(names), features_QKF.shape[-1], shape).eval()
            metanet.load_state_dict(load_file(made.training.path("metanet.safetensors")))
        with torch.no_grad():
            found.append((metanet(features_QKF, mask_QK)[0], mask_QK))
        ids += mine
    scores, masks = zip(*found, strict=True)
    return {name: place for place, name in enumerate(ids)}, torch.cat(scores), torch.cat(masks)


def tasks_of(questions: Artifact) -> dict[str, str]:
    """The task of every training question; empty if its source names none."""
    table = questions.table("questions", ["id", "role", "task"]).to_pylist()
    return {row["id"]: row["task"] or "" for row in table if row["role"] == "train"}


def _by_task(made: RunArtifacts, ids: dict[str, int], after_NK: Floats, seed: int) -> dict[str, Any]:
    """Mean preference per task, after and before training."""
    names, known, sets = names_of(made.run), tasks_of(made.questions), read_sets(made.synthesis)
    before_NK = np.where(sets.mask_NK, sets.preference_NK, np.nan)[np.argsort([ids[name] for name in sets.ids])]
    tasks = sorted({known[name] for name in ids})
    task_N = np.array([tasks.index(known[name]) for name in ids])
    means = {when: preferences_by_task(values_NK, task_N) for when, values_NK in (("after", after_NK), ("before", before_NK))}
    return {
        "tasks": [
            {
                "task": task,
                "questions": int((task_N == number).sum()),
                **{when: dict(zip(names, mean_TK[number].tolist(), strict=True)) for when, mean_TK in means.items()},
            }
            for number, task in enumerate(tasks)
        ],
        "p": task_permutation_test(after_NK, task_N, seed) if len(tasks) > 1 else None,
    }


def assistant(made: RunArtifacts, rows: Rows, loss_B: Floats, base_B: Floats, seed: int) -> dict[str, Any]:
    """Preferences of one run's MetaNet on all questions, and rank correlations of its scores and weights on the rows."""
    ids, scores_NK, mask_NK = _scores(made)
    temperature = made.run.objective.temperature
    after_NK = preferences(scores_NK, temperature).masked_fill(~mask_NK, float("nan")).numpy().astype(np.float64)
    place_Q = torch.tensor([ids[name] for name in rows.ids])
    scores_QK, mask_QK = scores_NK[place_Q], mask_NK[place_Q]
    alpha_QK = select_and_weigh(
        scores_QK, mask_QK, made.run.training.mixture, temperature, torch.Generator().manual_seed(seed)
    ).alpha_QK
    score_B, alpha_B = (tensor_QK.numpy()[rows.question_B, rows.perspective_B] for tensor_QK in (scores_QK, alpha_QK))

    def against(left_B: Floats, right_B: Floats) -> dict[str, Any]:
        found = correlations(left_B, right_B, rows.question_B, rows.perspective_B, seed)
        return {name: estimate._asdict() for name, estimate in found.items()}

    return {
        "model": made.name,
        "preferences": _by_task(made, ids, after_NK, seed),
        "audit": {
            "score and low loss": against(score_B, -loss_B),
            "score and low loss of the base": against(score_B, -base_B),
            "weight and fall of the loss": against(alpha_B, base_B - loss_B),
            "weight and length": against(alpha_B, rows.length_B.astype(np.float64)),
        },
    }
