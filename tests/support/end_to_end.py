"""The command line on the miniature world, made small, and what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from storage.store import Store
from tests.support.runs import REPOSITORY

SMALL = (
    "questions.train=[{kind: miniature, family: dial, split: train, count: 48}]",
    "questions.evaluation=[{name: dial, group: id, source: {kind: miniature, family: dial, split: test, count: 48}},"
    " {name: lift, group: ood, source: {kind: miniature, family: lift, split: test, count: 24}},"
    " {name: count, group: ood, source: {kind: miniature, family: count, split: test, count: 24}}]",
    "sampling.questions_per_shard=12",
    "sampling.tries=2",
    "synthesis.attempts=1",
    "synthesis.keep_easy=1.0",
    "training.steps=24",
    "training.checkpoint_every=6",
)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *arguments]


def environment() -> dict[str, str]:
    """The caller's environment without Prefect variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}


def mind(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False, timeout=timeout
    )


def overrides(root: Path, *more: str) -> list[str]:
    return [item for value in (f"root={root}", *SMALL, *more) for item in ("--set", value)]


class Run(NamedTuple):
    root: Path
    output: str

    def artifact(self, stage: str) -> Path:
        (found,) = (path.parent for path in (self.root / stage).glob("*/manifest.json"))
        return found

    def rows(self, stage: str, table: str) -> list[dict[str, Any]]:
        """All rows of one table of a stage's artifact."""
        return list(Store(self.root).open(stage, self.artifact(stage).name).table(table).to_pylist())

    def manifest(self, stage: str) -> dict[str, Any]:
        return dict(json.loads((self.artifact(stage) / "manifest.json").read_text()))
