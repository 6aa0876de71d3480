"""Cancelling a run during training: every process ends, the checkpoint stays, and the run can resume."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from tests.support.prefect.jobs import Job, NewJob, start_training
from tests.support.prefect.server import Prefect, eventually, processes_with
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e

GONE = 30.0
"""Seconds until Prefect kills processes that have not ended; an idle machine needs one or two."""


class Cancelled(NamedTuple):
    job: Job
    state: Mapping[str, Any]
    seconds: float
    step: int


@pytest.fixture(scope="module")
def cancelled(prefect: Prefect, new_job: NewJob) -> Cancelled:
    job = new_job("training")
    run = start_training(prefect, job)
    family = processes_with(str(job.root))
    began = time.monotonic()
    prefect.cancel(run)
    eventually(lambda: not any(process.is_running() for process in family), "the end of every process", patience=60)
    gone = time.monotonic() - began
    return Cancelled(job, prefect.final_state(run), gone, job.checkpoint())


def test_all_processes_end_and_the_run_is_cancelled(cancelled: Cancelled) -> None:
    assert cancelled.seconds < GONE
    assert cancelled.state["type"] == "CANCELLED"
    assert processes_with(str(cancelled.job.root)) == []


def test_no_task_of_the_cancelled_run_stays_unfinished(prefect: Prefect, cancelled: Cancelled) -> None:
    (run,) = [item["id"] for item in prefect.post("/flow_runs/filter") if item["name"] == cancelled.job.name]
    eventually(
        lambda: {"RUNNING", "PENDING"}.isdisjoint(task["state_type"] for task in prefect.tasks(run)), "the end of every task"
    )


def test_the_catalogue_lists_the_run_as_stopped(cancelled: Cancelled) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status", "--root", str(cancelled.job.root)],
        cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert cancelled.job.name in answer.stdout
    assert "stopped" in answer.stdout


def test_the_stage_deployment_resumes_from_the_checkpoint(prefect: Prefect, cancelled: Cancelled) -> None:
    job = cancelled.job
    parameters = {"run": job.name, "root": str(job.root)}
    run = prefect.start("training/gpu", parameters)
    state = prefect.final_state(run)
    assert state["type"] == "COMPLETED", state
    assert any(f"{cancelled.step} already done" in message for message in prefect.logs(run))
    assert job.artifact("training").manifest["timing"]["processes"] == 2

    again = prefect.outcome("training/gpu", parameters)
    assert again["name"] == "Cached"
    assert job.fingerprint("training") in again["message"]
