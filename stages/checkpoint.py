"""Checkpoints of joint training: everything that the next step depends on.

DeepSpeed's own folder holds the parameters and the student's optimiser; one safetensors file per rank beside it holds MetaNet, its
optimiser and gathered gradients, the inertia state and the random state. `checkpoint.json`, replaced after all of them are on
disk, names the one that counts. What DeepSpeed writes are pickles; they are read from the run's own scratch folder only.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from pipeline.errors import ConfigError
from pipeline.trainer import Joint
from storage.atomic import write_bytes

_COUNTS: Final = "checkpoint.json"


def _state(joint: Joint) -> dict[str, torch.Tensor]:
    tensors = {f"metanet.{name}": value for name, value in joint.metanet.state_dict().items()}
    tensors |= {f"inertia.{name}": value for name, value in joint.inertia.tensors().items()}
    for name, parameter in joint.metanet.named_parameters():
        if parameter.grad is not None:
            tensors[f"gradient.{name}"] = parameter.grad
    for number, values in joint.metanet_optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
    tensors["random"] = torch.get_rng_state()
    return {name: value.detach().clone().contiguous() for name, value in tensors.items()}


def _restore(joint: Joint, tensors: dict[str, torch.Tensor]) -> None:
    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    joint.metanet.load_state_dict(part("metanet."))
    for name, value in part("inertia.").items():
        setattr(joint.inertia, name, value)
    gradients = part("gradient.")
    for name, parameter in joint.metanet.named_parameters():
        parameter.grad = gradients.get(name)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in part("optimizer.").items():
        number, field = name.split(".", 1)
        state.setdefault(int(number), {})[field] = value
    groups = joint.metanet_optimizer.state_dict()["param_groups"]
    joint.metanet_optimizer.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(tensors["random"])


def save_checkpoint(joint: Joint, scratch: Path, step: int) -> None:
    """A checkpoint after `step` steps; older ones are removed once it counts."""
    tag = f"step-{step:06d}"
    joint.engine.save_checkpoint(str(scratch), tag=tag, save_latest=False)
    save_file(_state(joint), scratch / tag / f"joint-{joint.rank}.safetensors")
    if dist.is_initialized():
        dist.barrier()
    if joint.rank == 0:
        write_bytes(scratch / _COUNTS, json.dumps({"step": step, "tag": tag, "ranks": joint.ranks}).encode())
        for old in scratch.glob("step-*"):
            if old.name != tag:
                shutil.rmtree(old)


def load_checkpoint(joint: Joint, scratch: Path) -> int:
    """Steps already taken; 0 without a checkpoint.

    Raises:
        ConfigError: the checkpoint was written by another number of ranks.
    """
    if not (scratch / _COUNTS).exists():
        return 0
    found = json.loads((scratch / _COUNTS).read_text())
    if found["ranks"] != joint.ranks:
        raise ConfigError(
            f"training.ranks: {joint.ranks}, but the checkpoint in {scratch} was written by {found['ranks']}; "
            f"resume with training.ranks={found['ranks']}, or remove that folder to start training again"
        )
    joint.engine.load_checkpoint(str(scratch), tag=found["tag"])
    _restore(joint, load_file(scratch / found["tag"] / f"joint-{joint.rank}.safetensors"))
    return int(found["step"])
