"""Groups a model's parameters for AdamW: weight decay acts on the weights of layers, not on norms, biases and embeddings (our choice).

Norms and biases have one axis. An embedding shared with the output head counts as an embedding.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, decay: float, embeddings: Collection[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Groups of the trainable parameters, each with its `weight_decay`: one group if `decay` is 0, otherwise at most two.

    `embeddings` are parameters that count as embeddings beside those of `nn.Embedding`.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not decay:
        return [{"params": learning, "weight_decay": 0.0}]
    free = {id(parameter) for parameter in embeddings} | {
        id(parameter)
        for part in model.modules()
        if isinstance(part, nn.Embedding)
        for parameter in part.parameters(recurse=False)
    }
    kept = [parameter for parameter in learning if parameter.ndim < 2 or id(parameter) in free]
    decayed = [parameter for parameter in learning if parameter.ndim >= 2 and id(parameter) not in free]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
