"""Watching a stage process: only its own progress is reported, and no interrupt is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.stage_process import watch
from tests.support.runs import REPOSITORY


def test_progress_of_an_earlier_process_is_ignored(tmp_path: Path) -> None:
    progress = tmp_path / "worker.progress"
    progress.write_text(json.dumps({"label": "runs", "done": 135, "total": 135}))
    heard: list[Mapping[str, Any]] = []
    # Running this module does nothing, so it reports no progress.
    watch("core.progress", [], tmp_path / "log", progress, heard.append)
    assert heard == []


def test_an_interrupt_that_a_library_swallows_still_stops_the_stage(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from flows import stage_process
stage_process.keep_interrupts()
def swallowing(found):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass
folder = Path({str(tmp_path)!r})
stage_process.read_progress = lambda path: {{"total": 0}}
try:
    stage_process.watch("training", ["--help-me-not"], folder / "log", folder / "progress", swallowing)
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "stopped", done.stderr
