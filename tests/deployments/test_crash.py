"""SIGKILL of the flow process during training: the run is marked as crashed, all processes end, and `mind stage` resumes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.prefect.jobs import Crashed
from tests.support.prefect.server import Prefect, eventually, processes_with
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e


def test_the_run_is_marked_as_crashed_with_the_reason(crashed: Crashed) -> None:
    assert crashed.state["type"] == "CRASHED"
    assert "-9" in crashed.state["message"]


def test_no_task_of_the_crashed_run_stays_unfinished(prefect: Prefect, crashed: Crashed) -> None:
    def ended() -> bool:
        """The worker ends them after the run."""
        return {task["state_type"] for task in prefect.tasks(crashed.run)} == {"COMPLETED", "CRASHED"}

    eventually(ended, "the end of every task", patience=60)


def test_no_process_outlives_the_crash(crashed: Crashed) -> None:
    assert crashed.orphans_for < 30
    assert processes_with(str(crashed.job.root)) == []


def test_mind_stage_resumes_from_the_checkpoint(crashed: Crashed, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(crashed.job.root, root)
    job = replace(crashed.job, root=root)
    changes = [word for change in job.changes for word in ("--set", change)]
    command = [sys.executable, "-m", "flows.cli", "stage", "training", "configs/miniature.yaml", *changes]
    answer = subprocess.run(command, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert f"{crashed.step} already done" in job.log("training")
