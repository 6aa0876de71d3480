"""Runs by name: a small JSON per run, and pointers to runs, all replaced atomically.

`runs/<name>.json` holds {stage: fingerprint}, the config and the status; `pointers/<name>` holds a run's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from storage.atomic import write_bytes


def record_run(root: Path, name: str, stages: Mapping[str, str], config: Mapping[str, Any], status: str) -> None:
    """Write a run and let `latest` point to it."""
    document = {
        "name": name,
        "status": status,
        "updated": datetime.now(UTC).isoformat(timespec="microseconds"),
        "stages": dict(stages),
        "config": dict(config),
    }
    runs, pointers = root / "runs", root / "pointers"
    runs.mkdir(parents=True, exist_ok=True)
    pointers.mkdir(parents=True, exist_ok=True)
    write_bytes(runs / f"{name}.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
    write_bytes(pointers / "latest", name.encode())


def read_runs(root: Path) -> list[dict[str, Any]]:
    """All runs, newest first."""
    runs = [json.loads(path.read_text()) for path in (root / "runs").glob("*.json")]
    return sorted(runs, key=lambda run: str(run["updated"]), reverse=True)
