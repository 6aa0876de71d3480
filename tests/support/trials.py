"""Runs of the miniature models that are tried: their configuration's fields, and the loaded run."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipeline.config.run import RunConfig, load_config
from tests.support.runs import REPOSITORY

CONFIG: Final = REPOSITORY / "configs" / "miniature.yaml"
ENGINES: Final = ("sampling", "synthesis", "evaluation")


def changes_of(root: Path, *changes: str) -> tuple[str, ...]:
    """Overrides of the miniature run: engines that start fast, one rank, and `changes`."""
    return (
        f"root={root}",
        *(f"{name}.engine.kind=transformers" for name in ENGINES),
        "training.ranks=1",
        "training.max_length=128",
        *changes,
    )


def miniature(root: Path, *changes: str) -> RunConfig:
    return load_config(CONFIG, changes_of(root, *changes))
