"""Whoever watches a process hears of that process alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.stage_process import watch


def test_what_an_earlier_life_said_of_its_progress_is_not_heard(tmp_path: Path) -> None:
    progress = tmp_path / "worker.progress"
    progress.write_text(json.dumps({"label": "runs", "done": 135, "total": 135}))
    heard: list[Mapping[str, Any]] = []
    # A module that does nothing when it is run, and so says nothing.
    watch("core.progress", [], tmp_path / "log", progress, heard.append)
    assert heard == []
