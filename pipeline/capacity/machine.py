"""Describes this machine as far as a run needs it, and defines the result of a check: finding, severity and remedy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pipeline.config.engines import EngineConfig
from pipeline.errors import ConfigError

GIB: Final = 1 << 30

State = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """The result of one check."""

    name: str
    state: State
    found: str
    remedy: str = ""


def gib(count: float) -> str:
    """Formats bytes in GiB."""
    return f"{count / GIB:.1f} GiB"


class Machine(NamedTuple):
    """This machine's resources: names and memory (bytes) of its GPUs, main memory (bytes), number of cores."""

    cards: tuple[tuple[str, int], ...]
    memory: int
    cores: int


def this_machine() -> Machine:
    """Resources as reported by torch and psutil."""
    import psutil
    import torch

    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return Machine(
        tuple((card.name, card.total_memory) for card in cards), psutil.virtual_memory().total, len(os.sched_getaffinity(0))
    )


def too_many_replicas(engine: EngineConfig, gpus: int, cores: int) -> str | None:
    """What is wrong if a machine is too small for `engine.replicas`: each copy of the model takes its own GPUs, or a core."""
    if gpus and engine.cards > gpus:
        return f"replicas {engine.replicas} with tensor_parallel {engine.tensor_parallel} need {engine.cards} GPUs, but there are {gpus}"
    if not gpus and engine.replicas > cores:
        return f"replicas {engine.replicas}, but there are no GPU and {cores} cores"
    return None


def require_room(engine: EngineConfig) -> None:
    """Refuse more copies of a model than this machine has GPUs, or cores, for.

    Raises:
        ConfigError: it has too few.
    """
    if engine.kind != "vllm" or engine.replicas == 1:
        return
    import torch

    wrong = too_many_replicas(engine, torch.cuda.device_count(), len(os.sched_getaffinity(0)))
    if wrong is not None:
        raise ConfigError(f"engine.{wrong}; lower engine.replicas or tensor_parallel")


def disk(root: str, needed: int | None) -> Check:
    """Checks the free space under a local artifact root."""
    if "://" in root:
        return Check("disk", "ok", f"{root}: remote root, artifacts are uploaded as they are committed")
    folder = next(path for path in (Path(root), *Path(root).parents) if path.exists())
    if not os.access(folder, os.W_OK):
        return Check("disk", "fail", f"{folder} is not writable", "correct root or its permissions")
    free = shutil.disk_usage(folder).free
    said = f"{gib(free)} free under {folder}" + ("" if needed is None else f", about {gib(needed)} needed")
    return Check("disk", "fail" if needed is not None and free < needed else "ok", said, "free some disk space, or move root")
