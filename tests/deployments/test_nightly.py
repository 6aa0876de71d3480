"""Scheduled re-distillation: its decisions, what it leaves unchanged, and how Prefect shows them.

The tests are successive nights on one root. Only the students' answers are simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stages.core.plan import plan
from stages.core.process import run_stage
from stages.promotion import decisions
from storage.catalogue import read_pointer
from tests.support.evaluations import Item, commit_evaluation, evaluation_items
from tests.support.prefect.jobs import Job, NewJob, copy_artifact, file_contents
from tests.support.prefect.server import Prefect, eventually, scheduled_hours_ago

pytestmark = pytest.mark.e2e

NIGHTLY = "redistill/nightly"
WORSE = "training.learning_rate=1.1e-4"
OTHER_ITEMS = (
    "questions.evaluation=[{name: dial, group: id, source: {kind: miniature, family: dial, split: test, count: 9, seed: 5}},"
    " {name: lift, group: ood, source: {kind: miniature, family: lift, split: test, count: 6, seed: 5}},"
    " {name: dial-dev, group: id, use: dev, source: {kind: miniature, family: dial, split: dev, count: 6}}]"
)


def promoted(job: Job) -> str:
    """Fingerprint of the student that `promoted` points to."""
    found = read_pointer(job.store.backend, "promoted")
    assert found is not None
    return str(found["stages"]["training"])


def event(prefect: Prefect, job: Job, word: str) -> dict[str, Any]:
    """The latest event of a job; events arrive slightly later than states."""

    def look() -> list[dict[str, Any]]:
        found = prefect.events(f"mind.student.{word}")
        return [item for item in found if item["resource"]["prefect.resource.id"] == f"mind.run.{job.name}"]

    return dict(eventually(look, f"the event {word}", patience=30)[0])


def forged(job: Job, source: Job, right: Callable[[Item], bool]) -> Job:
    """A finished run whose student has these answers; its other artifacts are copied from `source`."""
    run_stage(job.config, "questions")
    for stage in ("sampling", "synthesis", "training"):
        if not job.store.exists(stage, job.fingerprint(stage)):
            copy_artifact(job, stage, source.artifact(stage))
    commit_evaluation(job.store, job.plan(), right)
    copy_artifact(job, "report", source.artifact("report"))
    return job


@pytest.fixture(scope="module")
def first(new_job: NewJob) -> Job:
    """A finished run whose student is always right, with no promoted student yet."""
    job = new_job("references", "evaluation")
    commit_evaluation(job.store, job.plan(), lambda item: True)
    return job


def test_the_first_candidate_is_compared_with_its_base_and_promoted(prefect: Prefect, first: Job) -> None:
    run = prefect.start(NIGHTLY, first.parameters)
    state = prefect.final_state(run)
    assert state["name"] == "Promoted", state
    assert "its own base" in state["message"]
    assert promoted(first) == first.fingerprint("training")
    (decision,) = decisions(first.store)
    assert (decision["candidate"], decision["incumbent"], decision["promote"]) == (first.fingerprint("training"), None, True)
    assert "| group:id | +100.0 |" in prefect.artifacts(run)["decision"]["data"]
    assert event(prefect, first, "promoted")["payload"]["candidate"] == first.fingerprint("training")


def test_a_night_without_changes_runs_no_stage(prefect: Prefect, first: Job) -> None:
    before = file_contents(first.root)
    run = prefect.start(NIGHTLY, first.parameters)
    state = prefect.final_state(run)
    assert state["name"] == "Unchanged"
    assert first.fingerprint("training") in state["message"]
    assert prefect.tasks(run) == []
    assert "nothing changed" in prefect.artifacts(run)["decision"]["data"]
    assert event(prefect, first, "unchanged")["payload"]["student"] == first.fingerprint("training")
    assert file_contents(first.root) == before


def test_a_dry_run_lists_the_stages_and_changes_nothing(prefect: Prefect, first: Job) -> None:
    candidate = first.with_changes("training.steps=10")
    before = file_contents(first.root)
    answer = prefect.outcome(NIGHTLY, {**candidate.parameters, "dry_run": True})
    assert answer["name"] == "DryRun"
    assert "would run training, evaluation, report" in answer["message"]
    assert file_contents(first.root) == before


def test_a_worse_candidate_is_refused_as_the_dry_run_predicts(prefect: Prefect, first: Job) -> None:
    candidate = forged(first.with_changes(WORSE), first, lambda item: False)
    before = file_contents(first.root)
    changes = [word for change in (*candidate.changes, f"name={first.name}") for word in ("--set", change)]
    assert "would be refused" in prefect.mind("redistill", "configs/miniature.yaml", "--dry-run", *changes)
    after = file_contents(first.root)
    assert {name: after[name] for name in after if not name.startswith(".prefect/")} == before

    state = prefect.outcome(NIGHTLY, candidate.parameters)
    assert state["name"] == "Refused", state
    assert "In distribution may be worse: -100.0 points" in state["message"]
    assert promoted(first) == first.fingerprint("training")
    assert decisions(first.store)[-1]["candidate"] == candidate.fingerprint("training")
    assert event(prefect, first, "refused")["payload"]["candidate"] == candidate.fingerprint("training")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param("teacher.path=/nowhere", "/nowhere", id="before it begins, as the teacher is gone"),
        pytest.param("training.questions_per_step=1000", "synthesis kept", id="in a stage, as its input is too small"),
    ],
)
def test_a_failing_candidate_does_not_change_the_promoted_student(prefect: Prefect, first: Job, change: str, said: str) -> None:
    candidate = first.with_changes(change)
    before = len(decisions(first.store))
    state = prefect.outcome(NIGHTLY, candidate.parameters)
    assert state["type"] == "FAILED"
    assert said in state["message"]
    assert promoted(first) == first.fingerprint("training")
    assert len(decisions(first.store)) == before


def test_a_run_that_starts_hours_late_is_skipped(prefect: Prefect, first: Job) -> None:
    before = file_contents(first.root)
    candidate = first.with_changes("training.steps=10")
    state = prefect.final_state(prefect.start(NIGHTLY, candidate.parameters, **scheduled_hours_ago(hours=7)))
    assert state["name"] == "Skipped"
    assert "7.0 h after its scheduled time" in state["message"]
    assert file_contents(first.root) == before


def test_on_new_items_the_incumbent_is_evaluated_and_a_second_run_refused(prefect: Prefect, first: Job) -> None:
    candidate = forged(first.with_changes(OTHER_ITEMS), first, lambda item: True)
    run = prefect.start(NIGHTLY, candidate.parameters)
    eventually(lambda: prefect.run(run)["state"]["type"] == "RUNNING", "the start")
    second = prefect.outcome(NIGHTLY, candidate.parameters)
    assert second["type"] == "CANCELLED", (second, prefect.final_state(run))

    state = prefect.final_state(run)
    assert state["name"] == "Promoted", state
    given = {"training": first.fingerprint("training")}
    answers = candidate.store.open("evaluation", plan(candidate.config, given)["evaluation"].fingerprint)
    assert answers.manifest["inputs"]["training"] == first.fingerprint("training")
    for stage in ("questions", "references"):
        assert answers.manifest["inputs"][stage] == candidate.fingerprint(stage)
    items = answers.table("items")
    assert set(items["model"].to_pylist()) == {"student"}
    assert sorted(items["question_id"].to_pylist()) == sorted(
        item[2] for item in evaluation_items(candidate.artifact("questions"))
    )
    assert promoted(first) == candidate.fingerprint("training")


def test_after_a_rollback_the_same_student_is_not_promoted_again(prefect: Prefect, first: Job) -> None:
    candidate = first.with_changes(OTHER_ITEMS)
    assert first.fingerprint("training") in prefect.mind("rollback", "--root", str(first.root))
    assert promoted(first) == first.fingerprint("training")
    state = prefect.outcome(NIGHTLY, candidate.parameters)
    assert state["name"] == "Unchanged"
    assert "Rolled back by hand" in state["message"]
    assert promoted(first) == first.fingerprint("training")
