"""Fixtures: one Prefect server with all deployments and workers, and jobs with their own roots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import count
from pathlib import Path

import pytest

from pipeline.config.run import RunConfig
from tests.support.prefect.jobs import Crashed, Job, NewJob, fill_job, start_training
from tests.support.prefect.server import Prefect, deployed, eventually, processes_with


@pytest.fixture(scope="package")
def prefect(undisturbed_run: Future[RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    with deployed(tmp_path_factory.mktemp("prefect")) as found:
        yield found


@pytest.fixture(scope="package")
def new_job(undisturbed: Path, teacher: str, tmp_path_factory: pytest.TempPathFactory) -> NewJob:
    """`new_job("training")`: a job with every stage finished except training."""
    numbers = count(1)

    def make(*without: str) -> Job:
        name = f"run-{next(numbers)}"
        return fill_job(Job(tmp_path_factory.mktemp(name), teacher, name), undisturbed, without)

    return make


@pytest.fixture(scope="package")
def crashed(prefect: Prefect, new_job: NewJob) -> Crashed:
    job = new_job("training")
    run = start_training(prefect, job)
    began = time.monotonic()
    prefect.engine(run).kill()
    eventually(lambda: not processes_with(str(job.root)), "the end of every process", patience=60)
    orphans_for = time.monotonic() - began
    return Crashed(job, run, prefect.final_state(run), orphans_for, job.checkpoint())
