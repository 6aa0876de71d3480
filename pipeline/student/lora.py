"""Trains LoRA adapters (Hu et al., 2021) instead of all student weights, and merges them into a whole model.

peft inserts the adapters into the student's own layers. The rest of the code therefore handles the same model object; only fewer parameters
are trainable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config.models import HubModel, Weights
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


def adapted_base(base: Weights, lora: Lora, weights: Mapping[str, Tensor]) -> Any:
    """The base student in fp32 with trained adapters, as peft's wrapper.

    `weights` is the state of an adapted student; only the adapter tensors are used.
    """
    whole = load_causal_model(base, torch.float32)
    handle = adapt(whole, lora)
    trained = {name: value.float() for name, value in weights.items() if ".lora_" in name}
    _, strange = whole.load_state_dict(trained, strict=False)
    assert not strange, "adapter names differ from the configured LoRA settings"
    return handle


def merged(adapted: Any) -> Any:
    """A whole model of the adapted base, merged in fp32, in the base's dtype; the adapters are used up."""
    whole = adapted.merge_and_unload()
    return whole.to(whole.config.dtype or torch.float32)


def save_adapter(adapted: Any, base: Weights, folder: Path) -> None:
    """Save the adapters as peft's files, in fp32. A base on a hub is named with its revision, a local one by its folder's name alone."""
    adapted.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = base.name if isinstance(base, HubModel) else base.path.name
    settings["revision"] = base.revision
    settings["target_modules"] = sorted(settings["target_modules"])  # peft's order changes from process to process
    path.write_text(json.dumps(settings, indent=2, sort_keys=True))
