"""Scores and weights of kept rationales by one state of MetaNet: that of its warm-up, or the trained one.

A weight is α of the method, 0 where the question's selection leaves the rationale out; weights of a question sum to 1. Training stores no
weights of single questions, so those between its start and its end are not known.

Axes: Q questions of a shard, K perspectives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline.config.synthesis import MetaNetShape, Objective
from pipeline.config.training import Mixture
from stages.shared.mapped_tables import by_question
from storage.artifact import Artifact


class Weighed(NamedTuple):
    """MetaNet's score, None where the weights do not follow one, and the weight α."""

    score: float | None
    weight: float


Weigh = Callable[[pa.Table, Mapping[tuple[str, str], float]], dict[tuple[str, str], Weighed]]
"""From a shard of features, and the base student's losses, to the weights of its rationales; all by question and perspective."""


def weigher(synthesis: Artifact, training: Artifact, metanet_file: Path) -> Weigh | None:
    """Weighs as `training` does, with the MetaNet of a file; None for ablations whose weights are random or come from a table of losses."""
    import torch
    from safetensors.torch import load_file

    from pipeline.metanet.inertia import targets
    from pipeline.metanet.network import MetaNet
    from pipeline.metanet.selection_and_weights import select_and_weigh

    settings = training.manifest["config"]
    mixture, objective = (
        Mixture.model_validate(settings["training"]["mixture"]),
        Objective.model_validate(settings["objective"]),
    )
    names = [item["name"] for item in synthesis.manifest["config"]["perspectives"]]
    if mixture.order != "scored" or mixture.draw is not None or mixture.weights == "table":
        return None
    if [item["name"] for item in settings["perspectives"]] != names:
        return None
    scored, weights = mixture.weights == "metanet", load_file(metanet_file)
    wanted = settings["training"].get("perspectives")
    wanted_K = torch.tensor([wanted is None or name in wanted for name in names])

    @cache
    def metanet(features: int) -> MetaNet:
        made = MetaNet(len(names), features, MetaNetShape.model_validate(settings["metanet"])).eval()
        made.load_state_dict(weights)
        return made

    def weighed(shard: pa.Table, losses: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], Weighed]:
        ids, features_QKF, there_QK = by_question(shard, names)
        mask_QK = there_QK & wanted_K
        places = there_QK.nonzero().tolist()
        scores_QK = torch.zeros(mask_QK.shape).masked_fill(~mask_QK, float("-inf"))
        if scored:
            with torch.no_grad():
                scores_QK = metanet(features_QKF.shape[-1])(features_QKF, mask_QK)[0]
        elif mixture.weights == "static":
            losses_QK = torch.zeros(mask_QK.shape)
            for q, k in places:
                losses_QK[q, k] = losses[ids[q], names[k]]
            scores_QK = targets(losses_QK, mask_QK, objective.target)
        alpha_QK = select_and_weigh(scores_QK, mask_QK, mixture, objective.temperature, torch.Generator()).alpha_QK
        alpha_QK = alpha_QK.masked_fill(~mask_QK, 0.0)
        return {
            (ids[q], names[k]): Weighed(
                float(scores_QK[q, k]) if scored and mask_QK[q, k] else None,
                float(alpha_QK[q, k]),
            )
            for q, k in places
        }

    return weighed
