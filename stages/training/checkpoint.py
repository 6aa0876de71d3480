"""Saves and loads checkpoints of joint training: all state that the next step depends on.

DeepSpeed's folder holds the parameters and the student's optimiser state. Beside it, one safetensors file per rank holds MetaNet, its
optimiser and accumulated gradients, the inertia state and the random state. `checkpoint.json` names the valid checkpoint; it is replaced
only after all other files are on disk. DeepSpeed writes pickles; they are read from the run's own scratch folder only.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from pipeline.errors import ConfigError, StageFailed
from pipeline.training.step import TrainingState
from storage.atomic import sync_file, write_bytes

VALID_CHECKPOINT: Final = "checkpoint.json"


def _state(state: TrainingState) -> dict[str, torch.Tensor]:
    tensors = {f"metanet.{name}": value for name, value in state.metanet.state_dict().items()}
    tensors |= {f"inertia.{name}": value for name, value in state.inertia.tensors().items()}
    for name, parameter in state.metanet.named_parameters():
        if parameter.grad is not None:
            tensors[f"gradient.{name}"] = parameter.grad
    for number, values in state.metanet_optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    return {name: value.detach().clone().contiguous() for name, value in tensors.items()}


def _restore(state: TrainingState, tensors: dict[str, torch.Tensor]) -> None:
    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    state.metanet.load_state_dict(part("metanet."))
    for name, value in part("inertia.").items():
        setattr(state.inertia, name, value)
    gradients = part("gradient.")
    for name, parameter in state.metanet.named_parameters():
        gradient = gradients.get(name)
        parameter.grad = None if gradient is None else gradient.to(parameter.device)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in part("optimizer.").items():
        number, field = name.split(".", 1)
        moments.setdefault(int(number), {})[field] = value
    groups = state.metanet_optimizer.state_dict()["param_groups"]
    state.metanet_optimizer.load_state_dict({"state": moments, "param_groups": groups})
    torch.set_rng_state(tensors["random"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random_cuda"])


def save_checkpoint(state: TrainingState, scratch: Path, step: int) -> None:
    """Save a checkpoint after `step` steps; older ones are removed once it is valid."""
    tag = f"step-{step:06d}"
    frozen = state.config.lora is not None  # frozen parameters are those of the base student
    engine: Any = state.engine  # DeepSpeed's own methods, beyond the protocol
    engine.save_checkpoint(str(scratch), tag=tag, save_latest=False, exclude_frozen_parameters=frozen)
    save_file(_state(state), scratch / tag / f"joint-{state.rank}.safetensors")
    if dist.is_initialized():
        dist.barrier()
    if state.rank == 0:
        for path in (scratch / tag).iterdir():
            sync_file(path)
        counts = {"step": step, "tag": tag, "ranks": state.ranks, "zero_stage": state.config.zero_stage}
        write_bytes(scratch / VALID_CHECKPOINT, json.dumps(counts).encode())
        for old in scratch.glob("step-*"):
            if old.name != tag:
                shutil.rmtree(old)


def load_checkpoint(state: TrainingState, scratch: Path) -> int:
    """Load the valid checkpoint; returns the number of steps already taken, 0 without a checkpoint.

    Raises:
        ConfigError: the checkpoint was written by another number of ranks or under another ZeRO stage.
        StageFailed: it cannot be loaded.
    """
    if not (scratch / VALID_CHECKPOINT).exists():
        return 0
    found = json.loads((scratch / VALID_CHECKPOINT).read_text())
    for field, now in (("ranks", state.ranks), ("zero_stage", state.config.zero_stage)):
        if found[field] != now:
            raise ConfigError(
                f"training.{field}: {now}, but the checkpoint in {scratch} was written with {found[field]}; "
                f"resume with training.{field}={found[field]}, or remove that folder to start training again"
            )
    whole = state.config.lora is None
    engine: Any = state.engine  # DeepSpeed's own methods, beyond the protocol
    loaded, _ = engine.load_checkpoint(str(scratch), tag=found["tag"], load_module_strict=whole)
    if loaded is None:
        raise StageFailed(f"{scratch}/{found['tag']}: the checkpoint is damaged; remove {scratch} to start training again")
    _restore(state, load_file(scratch / found["tag"] / f"joint-{state.rank}.safetensors"))
    return int(found["step"])
