"""A worker that resumes a series counts the runs that were finished before, and not as its own work."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.run import load_config
from stages.core.progress import Progress, read_progress
from stages.experiments.worker import process_runs
from tests.support.kill_campaign import CONFIG, overrides


def test_finished_runs_are_done_at_the_start_and_give_no_rate(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_config(CONFIG, overrides(undisturbed, "http://127.0.0.1:9/v1"))
    assert process_runs([run, run], Progress(tmp_path / "p", "series")) == []
    assert "series: runs: 2 runs, 2 already done" in capsys.readouterr().out
    found = read_progress(tmp_path / "p")
    assert found is not None
    assert (found["done"], found["rate"], found["seconds_left"]) == (2, 0.0, None)
