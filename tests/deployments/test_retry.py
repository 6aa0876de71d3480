"""`prefect flow-run retry` of a crashed run: the same run resumes once the machine slot of the dead process is released."""

from __future__ import annotations

import pytest

from flows.machine_slot import LEASE_SECONDS
from tests.support.prefect.jobs import Crashed
from tests.support.prefect.server import WAIT_SECONDS, Prefect

pytestmark = pytest.mark.e2e


def test_a_retry_resumes_from_the_checkpoint_and_repeats_no_stage(prefect: Prefect, crashed: Crashed) -> None:
    prefect.call("flow-run", "retry", crashed.run)
    state = prefect.final_state(crashed.run, patience=WAIT_SECONDS + LEASE_SECONDS)
    assert state["type"] == "COMPLETED", state
    states: dict[str, set[str]] = {}
    for task in prefect.tasks(crashed.run):
        states.setdefault(task["name"].partition(" ")[0], set()).add(task["state_name"])
    assert states == {stage: {"Cached"} for stage in states} | {"training": {"Crashed", "Completed"}}
    assert any(f"{crashed.step} already done" in message for message in prefect.logs(crashed.run))
