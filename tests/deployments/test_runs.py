"""A run in Prefect's tasks, artifacts, logs and pages, and Prefect's links in the run's artifacts."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from flows.stage_task import LOG_LINES, LOG_SECONDS
from storage.catalogue import read_run
from tests.support.browser import browser
from tests.support.kill_campaign import STAGES
from tests.support.prefect.jobs import Job, NewJob
from tests.support.prefect.server import Prefect, eventually
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e

RAN = ("sampling", "report")


class Full(NamedTuple):
    """A completed run in which only two stages had to run."""

    job: Job
    run: str
    state: dict[str, Any]


class Begun(NamedTuple):
    """A started run that may not have ended yet."""

    job: Job
    run: str


@pytest.fixture(scope="module")
def job(new_job: NewJob) -> Job:
    """The job whose reports are served."""
    return new_job(*RAN)


@pytest.fixture(scope="module")
def reports(job: Job) -> Iterator[str]:
    """The address of `mind reports`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "reports", str(job.root), "--port", "0"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert found is not None
    yield found.group()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def begun(prefect: Prefect, job: Job, reports: str, new_job: NewJob) -> dict[str, Begun]:
    """Starts all runs of this module at once."""
    full, spread = job, new_job("questions", "sampling")
    strict = {"job_variables": {"env": {"MIND_CHANGES_MAY_NAME_SERVERS": "0"}}}
    linked = {"job_variables": {"env": {"MIND_REPORTS_URL": reports}}}
    nobody = ("sampling.engine.base_url=http://127.0.0.1:9/v1", "sampling.engine.retry_seconds=1")
    failing = new_job("sampling").with_changes(*nobody)
    runner = {"job": {**spread.parameters["job"], "stage_runner": "deployment"}}
    return {
        "full": Begun(full, prefect.start("distill/full", full.parameters, **linked)),
        "spread": Begun(spread, prefect.start("distill/spread", runner)),
        "refused": Begun(full, prefect.start("distill/full", full.parameters, **strict)),
        "failing": Begun(failing, prefect.start("distill/full", failing.parameters)),
    }


@pytest.fixture(scope="module")
def full(prefect: Prefect, begun: dict[str, Begun]) -> Full:
    return Full(*begun["full"], prefect.final_state(begun["full"].run))


def test_a_run_completes_under_its_own_name(prefect: Prefect, full: Full) -> None:
    assert full.state["type"] == "COMPLETED", full.state
    assert prefect.run(full.run)["name"] == full.job.name


def test_every_stage_is_a_task_in_order_named_by_stage_and_fingerprint(prefect: Prefect, full: Full) -> None:
    assert [task["name"] for task in prefect.tasks(full.run)] == [f"{stage} {full.job.fingerprint(stage)}" for stage in STAGES]


def test_existing_stages_are_cached_and_the_others_completed(prefect: Prefect, full: Full) -> None:
    for stage, task in zip(STAGES, prefect.tasks(full.run), strict=True):
        assert task["state_name"] == ("Completed" if stage in RAN else "Cached")
        assert f"{stage}/{full.job.fingerprint(stage)}" in task["state"]["message"]


def test_results_are_artifacts_with_tables_findings_images_and_a_link(prefect: Prefect, full: Full, reports: str) -> None:
    found = prefect.artifacts(full.run)
    for stage in RAN:
        assert found[f"{stage}-progress"]["data"] == 100.0
    for key in ("stages", "accuracy"):
        assert found[key]["type"] == "table"
    assert full.job.fingerprint("training") in found["stages"]["data"]
    assert {"group:id", "set:dial", "set:lift"} <= {row["set"] for row in json.loads(found["accuracy"]["data"])}
    assert found["findings"]["data"].startswith("- ")
    assert f"]({reports}/{full.job.fingerprint('report')}/report.html)" in found["report"]["data"]
    for key in ("accuracy-by-set", "weight-of-each-perspective-over-steps"):
        assert found[key]["type"] == "image"
        assert found[key]["data"].startswith("data:image/png;base64,")


def test_log_lines_of_a_stage_are_forwarded_within_a_limit(prefect: Prefect, full: Full) -> None:
    wanted = {f"{stage}: wrote {full.job.artifact(stage).folder}" for stage in RAN}

    def arrived() -> list[str]:
        """Logs arrive slightly later than states."""
        found = [line for message in prefect.logs(full.run) for line in message.splitlines()]
        return found if wanted <= {*found} else []

    lines = eventually(arrived, "the last lines", patience=30)
    seconds = sum(full.job.artifact(stage).manifest["timing"]["seconds"] + 30 for stage in RAN)
    assert len(lines) < LOG_LINES * (seconds / LOG_SECONDS) + 40


def test_the_manifest_and_the_report_link_to_the_run_page(prefect: Prefect, full: Full) -> None:
    for stage in RAN:
        assert full.job.artifact(stage).manifest["provenance"]["flow_run"] == prefect.page(full.run)
    page = full.job.artifact("report").path("report.html").read_text()
    assert f'href="{prefect.page(full.run)}"' in page


def test_the_catalogue_lists_the_run_as_done(full: Full) -> None:
    found = read_run(full.job.store.backend, full.job.name)
    assert found is not None
    assert (found["status"], found["stages"]) == ("done", {stage: full.job.fingerprint(stage) for stage in STAGES})


def test_spread_runs_each_missing_stage_in_its_own_deployment(prefect: Prefect, begun: dict[str, Begun]) -> None:
    job, run = begun["spread"]
    state = prefect.final_state(run)
    assert state["type"] == "COMPLETED", state
    deployments = {item["id"]: name for name, item in prefect.deployments().items()}
    found = prefect.children(run)
    assert [deployments[child["deployment_id"]] for child in found] == ["questions/cpu", "sampling/gpu"]
    assert [child["work_pool_name"] for child in found] == ["mind-cpu", "mind-gpu"]
    assert all(job.store.exists(stage, job.fingerprint(stage)) for stage in STAGES)


def test_a_failed_stage_shows_the_end_of_its_log_in_its_state(prefect: Prefect, begun: dict[str, Begun]) -> None:
    job, run = begun["failing"]
    state = prefect.final_state(run)
    assert state["type"] == "FAILED", state
    task = prefect.tasks(run)[-1]
    assert task["name"].startswith("sampling")
    last = job.log("sampling").strip().splitlines()[-1]
    assert last in task["state"]["message"]
    assert last in state["message"]


def test_a_run_whose_changes_name_a_server_fails_before_its_first_stage(prefect: Prefect, begun: dict[str, Begun]) -> None:
    state = prefect.final_state(begun["refused"].run)
    assert state["type"] == "FAILED", state
    assert "sampling.engine.base_url: the changes of a job must not set it" in state["message"]
    assert prefect.tasks(begun["refused"].run) == []


def test_a_browser_shows_the_run_with_its_state_and_stages(prefect: Prefect, full: Full) -> None:
    wanted = (full.job.name, "Completed", f"{len(STAGES)} Task runs", "mind-gpu")
    with browser() as chromium:
        chromium.open(prefect.page(full.run))
        eventually(lambda: all(word in chromium.text(prefect.url) for word in wanted), f"a page with {', '.join(wanted)}", 90)


def test_clicks_lead_from_the_run_page_to_the_report(prefect: Prefect, full: Full, reports: str) -> None:
    with browser() as chromium:
        chromium.open(prefect.page(full.run))
        for words, then in (("Artifacts", "report"), ("report", "Open the report")):
            chromium.click(prefect.url, words, partial(chromium.place, prefect.url, then))
        chromium.click(
            prefect.url, "Open the report", lambda: any(page["url"].startswith(reports) for page in chromium.pages())
        )
        page = eventually(lambda: chromium.text(reports), "the report", 60)
    for name in ("dial", "lift", "base", "student", "teacher"):
        assert name in page
    for finding in full.job.artifact("report").summary["findings"]:
        assert " ".join(finding.split()) in page


def test_without_an_address_of_reports_the_page_names_file_and_remedy(prefect: Prefect, begun: dict[str, Begun]) -> None:
    job, run = begun["spread"]
    assert prefect.final_state(run)["type"] == "COMPLETED"
    found = prefect.artifacts(run)["report"]
    assert found["type"] == "markdown"
    assert str(job.artifact("report").path("report.html")) in found["data"]
    assert "MIND_REPORTS_URL" in found["data"]
