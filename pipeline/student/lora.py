"""Trains LoRA adapters (Hu et al., 2021) instead of all student weights, and merges them into a whole model.

peft inserts the adapters into the student's own layers. The rest of the code therefore handles the same model object; only fewer parameters
are trainable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.config.models import Weights
from pipeline.config.training import Lora
from pipeline.errors import ConfigError
from pipeline.model_folders import load_causal_model


def adapt(student: Any, lora: Lora) -> Any:
    """Inserts adapters into `student` in place and freezes all other parameters; returns peft's wrapper.

    Raises:
        ConfigError: no layer of the student has a name in `training.lora.targets`.
    """
    from peft import LoraConfig, get_peft_model

    targets = "all-linear" if lora.targets is None else list(lora.targets)
    settings = LoraConfig(task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
    try:
        return get_peft_model(student, settings)
    except ValueError as error:
        layers = sorted(
            {name.rsplit(".", 1)[-1] for name, part in student.named_modules() if isinstance(part, torch.nn.Linear)}
        )
        raise ConfigError(
            f"training.lora.targets: {', '.join(lora.targets or ())}: the student has no such layers; use some of {', '.join(layers)}"
        ) from error


def merged(base: Weights, lora: Lora, weights: Mapping[str, Tensor]) -> Any:
    """The base student with trained adapters merged into its layers, in the base's dtype.

    `weights` is the state of an adapted student; only the adapter tensors are used. Merging is done in fp32.
    """
    whole = load_causal_model(base, torch.float32)
    handle = adapt(whole, lora)
    trained = {name: value.float() for name, value in weights.items() if ".lora_" in name}
    _, strange = whole.load_state_dict(trained, strict=False)
    assert not strange, "adapter names differ from the configured LoRA settings"
    return handle.merge_and_unload().to(whole.config.dtype or torch.float32)
