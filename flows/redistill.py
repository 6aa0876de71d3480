"""Re-distillation: if an input of the student has changed, distils a candidate, compares it, and promotes it if it is not worse.

1. Detect changes: compare the student that the configuration would give now (a fingerprint over question files, models, configuration) with
   the promoted student and with candidates that were refused before. If nothing is new, report that and stop.
2. Distil the candidate (every stage is resumed or reused as in `distill`).
3. Compare both students on identical items. The promoted student's recorded answers are used if they answer the same items in the same way;
   otherwise it answers this run's items now. Base and teacher are not asked again. The first candidate is compared with its own base.
4. Decide, and move `promoted` only if the candidate is not worse (`stages/promotion.py`).

The decision with its figures is written to the catalogue (`decisions/`), to Prefect as an artifact, and emitted as an event that an
automation may react to: `mind.student.promoted`, `mind.student.refused`, `mind.student.unchanged`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed
from pydantic import Field

from flows.distill import publish, run_all
from flows.job_parameters import Job
from flows.stage_task import end_tasks_of_earlier_processes, end_tasks_with_flow, run_stage
from pipeline.analysis.promotion_rule import Decision, Policy
from pipeline.config.run import RunConfig
from stages import promotion
from stages.core.plan import plan
from stages.core.process import store_of
from stages.promotion import STUDENT, check_policy, settle, why_not
from storage.artifact import Artifact


def _evaluate(config: RunConfig, given: Mapping[str, str]) -> Artifact:
    """The evaluation of a run with some artifacts replaced, as a task of this flow."""
    planned = plan(config, given)["evaluation"]
    run_stage("evaluation", planned.fingerprint, config, given=given)
    return store_of(config).open("evaluation", planned.fingerprint)


def judge(config: RunConfig, policy: Policy) -> tuple[Decision, str | None]:
    """The decision on a finished candidate, and the student that it was compared with; see `stages/promotion.py`."""
    return promotion.judge(config, policy, partial(_evaluate, config))


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


@flow(
    name="redistill",
    flow_run_name="redistill {job.title}",
    validate_parameters=True,
    on_crashed=[end_tasks_with_flow],
    on_cancellation=[end_tasks_with_flow],
)
def redistill(
    job: Job,
    policy: Policy = Policy(),  # noqa: B008 - frozen
    dry_run: Annotated[bool, Field(description="show what would be done or decided; change nothing")] = False,
    skip_if_late_hours: Annotated[
        float, Field(gt=0, description="a scheduled run that begins later than this is skipped")
    ] = 6.0,
) -> State[Any]:
    """Distil a candidate if an input changed; promote it if it is not worse than the promoted student."""
    end_tasks_of_earlier_processes()
    if _hours_late() > skip_if_late_hours:
        return Completed(
            name="Skipped", message=f"began {_hours_late():.1f} h after its scheduled time; the next scheduled run replaces it"
        )
    config = job.load()
    check_policy(config, policy)
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
