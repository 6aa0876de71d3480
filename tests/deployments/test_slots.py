"""Machine slot under Prefect: accelerator stages run one at a time on a machine."""

from __future__ import annotations

import time

import pytest

from tests.support.prefect.jobs import NewJob
from tests.support.prefect.server import WAIT_SECONDS, Prefect, processes_with

pytestmark = [pytest.mark.e2e, pytest.mark.soak]


def test_two_concurrent_runs_never_sample_at_the_same_time(prefect: Prefect, new_job: NewJob) -> None:
    jobs = [new_job("sampling"), new_job("sampling")]
    for job in jobs:
        job.record()
    runs = [prefect.start("sampling/gpu", {"run": job.name, "root": str(job.root)}) for job in jobs]
    seen: set[str] = set()
    until = time.monotonic() + WAIT_SECONDS
    while not all(job.store.exists("sampling", job.fingerprint("sampling")) for job in jobs):
        assert time.monotonic() < until
        busy = {job.name for job in jobs if processes_with(str(job.root / "sampling"))}
        assert len(busy) <= 1, "both at once"
        seen |= busy
    assert seen == {job.name for job in jobs}
    assert {prefect.final_state(run)["type"] for run in runs} == {"COMPLETED"}
