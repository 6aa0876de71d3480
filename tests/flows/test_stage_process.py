"""Watching a stage process: only its own progress is reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.stage_process import watch


def test_progress_of_an_earlier_process_is_ignored(tmp_path: Path) -> None:
    progress = tmp_path / "worker.progress"
    progress.write_text(json.dumps({"label": "runs", "done": 135, "total": 135}))
    heard: list[Mapping[str, Any]] = []
    # Running this module does nothing, so it reports no progress.
    watch("core.progress", [], tmp_path / "log", progress, heard.append)
    assert heard == []
