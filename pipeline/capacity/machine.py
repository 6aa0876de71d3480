"""Describes this machine as far as a run needs it, and defines the result of a check: finding, severity and remedy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, Literal, NamedTuple

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
