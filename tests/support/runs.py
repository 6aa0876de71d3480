"""Configurations of small runs, as plain data and as YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]


def tree_of(model: Path) -> dict[str, Any]:
    return {
        "name": "small",
        "root": "artifacts",
        "teacher": {"path": str(model), "chat": False},
        "student": {"path": str(model), "chat": False},
        "questions": {
            "train": [{"kind": "miniature", "family": "dial", "split": "train", "count": 12}],
            "evaluation": [
                {"name": name, "group": "id", "use": use, "source": {**source, "split": use}}
                for name, use, source in (
                    ("dial", "test", {"kind": "miniature", "family": "dial", "count": 4, "seed": 1}),
                    ("lift", "test", {"kind": "miniature", "family": "lift", "count": 4, "seed": 1}),
                    ("dial-dev", "dev", {"kind": "miniature", "family": "dial", "count": 4, "seed": 1}),
                )
            ],
        },
        "training": {"questions_per_step": 32, "ranks": 2, "questions_per_micro_batch": 4, "max_length": 512},
    }


def write_config(folder: Path, tree: dict[str, Any], name: str = "run.yaml") -> Path:
    """`tree` as a YAML file in `folder`, keys in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path
