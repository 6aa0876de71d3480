"""Re-distillation: if an input of the student has changed, distils a candidate, compares it, and promotes it if it is not worse.

1. Detect changes: compare the student that the configuration would give now (a fingerprint over question files, models, configuration) with
   the promoted student and with candidates that were refused before. If nothing is new, report that and stop.
2. Distil the candidate (every stage is resumed or reused as in `distill`).
3. Compare both students on identical items. The promoted student's recorded answers are used if they answer the same items in the same way;
   otherwise it answers this run's items now. Base and teacher are not asked again. The first candidate is compared with its own base.
4. `pipeline/analysis/promotion.py` decides. Only then is `promoted` moved; its history keeps the earlier versions for `mind rollback`.

The decision with its figures is written to the catalogue (`decisions/`), to Prefect as an artifact, and emitted as an event that an
automation may react to: `mind.student.promoted`, `mind.student.refused`, `mind.student.unchanged`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import orjson
from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed
from pydantic import Field

from flows.distill import publish, run_all
from flows.job import Job
from flows.runs import fingerprints
from flows.stage_task import run_stage
from pipeline.analysis.accuracy import PairedChange
from pipeline.analysis.promotion import Decision, Policy, decide
from pipeline.config.run import RunConfig
from stages.core.plan import plan
from stages.core.process import store_of
from stages.core.summaries import EvaluationSummary
from stages.shared.accuracy import COUNTED, compare_students
from stages.shared.answering import items_digest
from storage.artifact import Artifact
from storage.catalogue import point, read_pointer
from storage.errors import ArtifactMissing
from storage.store import Store

PROMOTED: Final = "promoted"
STUDENT: Final = "training"
ROLLED_BACK: Final = "Rolled back by hand."
"""A reason that blocks a candidate whichever student has been promoted since."""


def decisions(store: Store) -> list[dict[str, Any]]:
    """All decisions, oldest first."""
    found = (store.backend.read(f"decisions/{name}") for name in store.backend.names("decisions"))
    return [orjson.loads(content) for content in found if content is not None]


def why_not(store: Store, candidate: str) -> str | None:
    """The reason not to distil, or None."""
    incumbent = read_pointer(store.backend, PROMOTED)
    if incumbent is not None and incumbent["stages"][STUDENT] == candidate:
        return f"nothing changed: {STUDENT}/{candidate} has been the promoted student since {incumbent['updated'][:19]}"
    standing = None if incumbent is None else incumbent["stages"][STUDENT]
    for decision in decisions(store):
        holds = decision["incumbent"] == standing or ROLLED_BACK in decision["reasons"]
        if decision["candidate"] == candidate and not decision["promote"] and holds:
            return f"nothing changed: {STUDENT}/{candidate} was refused on {decision['when'][:19]}: {' '.join(decision['reasons'])}"
    return None


def _asked(store: Store, evaluation: Artifact) -> dict[str, Any]:
    """What identifies an evaluation: its questions, its settings and the stage's version."""
    identity = evaluation.manifest["identity"]
    questions = store.open("questions", evaluation.manifest["inputs"]["questions"])
    how = {name: identity["config"][name] for name in ("prompts", "evaluation")}
    return {"version": identity["version"], **how, "what": items_digest(questions, how["evaluation"]["use"])}


def compare(config: RunConfig, incumbent: dict[str, str]) -> dict[str, PairedChange]:
    """Candidate − incumbent by group and set, on identical items; the incumbent answers this run's items now if it has not yet."""
    store = store_of(config)
    candidate = store.open("evaluation", plan(config)["evaluation"].fingerprint)
    answered = incumbent.get("evaluation")
    if answered is not None and store.exists("evaluation", answered):
        before = store.open("evaluation", answered)
        if _asked(store, before) == _asked(store, candidate):
            return _compared(before, candidate, config)
    given = {STUDENT: incumbent[STUDENT]}
    planned = plan(config, given)["evaluation"]
    run_stage("evaluation", planned.fingerprint, config, given=given)
    return _compared(store.open("evaluation", planned.fingerprint), candidate, config)


def _compared(before: Artifact, after: Artifact, config: RunConfig) -> dict[str, PairedChange]:
    theirs, ours = before.batches("items", COUNTED), after.batches("items", COUNTED)
    changes = compare_students(theirs, ours, config.evaluation.bootstrap, config.seed)
    assert changes is not None, "both evaluations have identical items"
    return changes


def judge(config: RunConfig, policy: Policy) -> tuple[Decision, str | None]:
    """The decision on a finished candidate, and the student that it was compared with (None: its own base)."""
    store = store_of(config)
    evaluation = EvaluationSummary.of(store.open("evaluation", plan(config)["evaluation"].fingerprint))
    ood = [name for group, name in evaluation.sets if group == "ood"]
    incumbent = read_pointer(store.backend, PROMOTED)
    if incumbent is None:
        return decide(evaluation.student_against_base, ood, policy), None
    return decide(compare(config, incumbent["stages"]), ood, policy), incumbent["stages"][STUDENT]


def settle(config: RunConfig, decision: Decision, incumbent: str | None) -> dict[str, Any]:
    """Write the decision, and move `promoted` if it says so; returns the written document."""
    store, stages = store_of(config), fingerprints(plan(config))
    document = _write(store, config.name, stages[STUDENT], incumbent, decision)
    if decision.promote:
        point(store.backend, PROMOTED, config.name, stages)
    return document


def _write(store: Store, run: str, candidate: str, incumbent: str | None, decision: Decision) -> dict[str, Any]:
    document: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="microseconds"),
        "run": run,
        "candidate": candidate,
        "incumbent": incumbent,
        "promote": decision.promote,
        "reasons": decision.reasons,
        "figures": decision.figures,
    }
    name = document["when"].replace(":", "-")
    store.backend.write(f"decisions/{name}.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return document


def rollback(store: Store) -> dict[str, Any]:
    """Move `promoted` back to the previous version; scheduled runs do not promote the current one again. Returns the new pointer.

    Raises:
        ArtifactMissing: there is no previous version.
    """
    now = read_pointer(store.backend, PROMOTED)
    if now is None or not now["history"]:
        raise ArtifactMissing(f"{PROMOTED}: no earlier version; `mind promote RUN` sets one")
    before: dict[str, Any] = now["history"][0]
    refused = Decision(False, [ROLLED_BACK], {"changes": {}, "corrected_p": {}})
    _write(store, now["run"], now["stages"][STUDENT], before["stages"][STUDENT], refused)
    point(store.backend, PROMOTED, before["run"], before["stages"], now["history"][1:])
    return before


def _tell(config: RunConfig, outcome: str, text: str, payload: dict[str, Any]) -> None:
    create_markdown_artifact(key="decision", description=f"{config.name}: {outcome}", markdown=text)
    emit_event(f"mind.student.{outcome}", {"prefect.resource.id": f"mind.run.{config.name}"}, payload={"text": text, **payload})
    get_run_logger().info("%s: %s", outcome, text)


def _table(decision: Decision) -> str:
    lines = ["| items | change, points | 95 % interval | p |", "|---|---|---|---|"]
    for place, change in decision.figures["changes"].items():
        low, high = change["low"] * 100, change["high"] * 100
        lines.append(f"| {place} | {change['change'] * 100:+.1f} | {low:+.1f} to {high:+.1f} | {change['p']:.2g} |")
    return "\n".join(lines)


def _hours_late() -> float:
    """Hours between the scheduled time and the start of this run; a worker that was offline runs all schedules that it missed."""
    due = runtime.flow_run.scheduled_start_time
    return 0.0 if due is None else max(0.0, (datetime.now(UTC) - due).total_seconds() / 3600)


@flow(name="redistill", flow_run_name="redistill {job.title}", validate_parameters=True)
def redistill(
    job: Job,
    policy: Policy = Policy(),  # noqa: B008 - frozen
    dry_run: Annotated[bool, Field(description="show what would be done or decided; change nothing")] = False,
    skip_if_late_hours: Annotated[
        float, Field(gt=0, description="a scheduled run that begins later than this is skipped")
    ] = 6.0,
) -> State[Any]:
    """Distil a candidate if an input changed; promote it if it is not worse than the promoted student."""
    if _hours_late() > skip_if_late_hours:
        return Completed(
            name="Skipped", message=f"began {_hours_late():.1f} h after its scheduled time; the next scheduled run replaces it"
        )
    config = job.load()
    store, planned = store_of(config), plan(config)
    nothing = why_not(store, planned[STUDENT].fingerprint)
    if nothing is not None:
        _tell(config, "unchanged", nothing, {"student": planned[STUDENT].fingerprint})
        return Completed(name="Unchanged", message=nothing)
    missing = [name for name, item in planned.items() if not store.exists(name, item.fingerprint)]
    if dry_run and missing:
        return Completed(name="DryRun", message=f"would run {', '.join(missing)}, then compare and decide")
    if not dry_run:
        publish(run_all(config, job.stage_runner == "deployment"))
    decision, incumbent = judge(config, policy)
    word = "promoted" if decision.promote else "refused"
    against = "its own base, as nothing is promoted yet" if incumbent is None else f"{STUDENT}/{incumbent}"
    text = f"{STUDENT}/{planned[STUDENT].fingerprint} against {against}: {' '.join(decision.reasons)}"
    if dry_run:
        return Completed(name="DryRun", message=f"would be {word}: {text}")
    document = settle(config, decision, incumbent)
    _tell(config, word, f"{text}\n\n{_table(decision)}", {key: document[key] for key in ("candidate", "incumbent", "promote")})
    return Completed(name=word.capitalize(), message=text)
