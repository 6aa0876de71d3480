"""The shipped automations: a run that lives longer than the wait stays as it is, and one that nobody works on any more gets an end.

The automations are created from `flows/automations.yaml` with a shorter wait. A run beats every 30 s here, Prefect's shortest interval. The
worker is stopped in the meantime, as if its machine were lost, so that only the automation can notice what happens.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml
from prefect.settings.models.flows import FlowsSettings

from tests.support.prefect.jobs import Job, NewJob
from tests.support.prefect.server import Prefect, eventually, processes_with
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e

SHIPPED: Final[list[dict[str, Any]]] = yaml.safe_load((REPOSITORY / "flows" / "automations.yaml").read_text())["automations"]
WITHOUT_A_WORD: Final = [item for item in SHIPPED if item["trigger"]["posture"] == "Proactive"]
BEAT: Final = 30
WAIT: Final = 50
BEATING: Final = {"job_variables": {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(BEAT)}}}


def test_the_wait_is_longer_than_three_of_prefects_beats() -> None:
    default = FlowsSettings.model_fields["heartbeat_frequency"].default
    assert [item["trigger"]["within"] > 3 * default for item in WITHOUT_A_WORD] == [True, True]


@pytest.fixture(scope="module")
def automations(prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The shipped automations with a shorter wait."""
    file = tmp_path_factory.mktemp("automations") / "automations.yaml"
    shorter = [item | {"trigger": item["trigger"] | {"within": WAIT}} for item in WITHOUT_A_WORD]
    file.write_text(yaml.safe_dump({"automations": shorter}))
    prefect.call("automation", "create", "--from-file", str(file))
    yield
    for item in prefect.post("/automations/filter"):
        prefect.request("DELETE", f"/automations/{item['id']}").raise_for_status()


@pytest.fixture
def waiting(new_job: NewJob) -> Job:
    """A job whose teacher does not answer for half an hour."""
    return new_job("sampling").with_changes("sampling.engine.base_url=http://127.0.0.1:9/v1")


@pytest.mark.soak
@pytest.mark.usefixtures("automations")
def test_a_living_run_stays_and_dead_ones_get_their_end(prefect: Prefect, waiting: Job) -> None:
    run = prefect.start("distill/full", waiting.parameters, **BEATING)
    eventually(lambda: processes_with(str(waiting.root)), "the start of the stage")
    began = time.monotonic()
    quick = prefect.start("redistill/nightly", {**waiting.parameters, "dry_run": True}, **BEATING)
    assert prefect.final_state(quick)["name"] == "DryRun"
    while time.monotonic() - began < WAIT + BEAT:
        assert prefect.run(run)["state"]["type"] == "RUNNING"
        time.sleep(1)

    workers = [process for process in processes_with("test-mind-gpu")]
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    try:
        submitted = prefect.start("redistill/nightly", waiting.parameters)
        prefect.post(f"/flow_runs/{submitted}/set_state", state={"type": "PENDING", "name": "Pending"})
        cancelled = prefect.start("distill/full", waiting.parameters)
        for state in ("PENDING", "RUNNING", "CANCELLING"):
            body = {"type": state, "name": state.capitalize()}
            prefect.post(f"/flow_runs/{cancelled}/set_state", state=body, force=True)
        prefect.engine(run).kill()
        assert prefect.final_state(run, WAIT * 3)["type"] == "CRASHED"
        assert prefect.final_state(submitted, WAIT)["type"] == "CRASHED"
        assert prefect.final_state(cancelled, WAIT)["type"] == "CANCELLED"
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
    assert prefect.run(quick)["state"]["name"] == "DryRun"
    eventually(lambda: not processes_with(str(waiting.root)), "the end of every process", patience=60)
