"""The distillation as a Prefect flow: one task per stage, in order, each in its own process.

The artifacts on disk decide whether a stage has to run, never Prefect's result cache; the task of a finished stage ends in the state
`Cached`. Tasks pass fingerprints to each other. `PREFECT_API_URL` selects the server that shows the run; without it Prefect starts a
temporary server.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import nullcontext

from prefect import flow
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.client.schemas.objects import State

from flows.job_parameters import Job
from flows.result_tables import StageOutcome, say_stage
from flows.run_records import fingerprints, record
from flows.server.reports import report_link, report_place
from flows.stage_task import end_tasks_of_earlier_processes, end_tasks_with_flow, run_stage
from flows.tracking.following import Followed, followed
from pipeline.config.run import RunConfig
from stages.core.plan import plan
from stages.core.process import store_of
from stages.core.summaries import EvaluationSummary, ReportSummary
from stages.training.launcher import check_machine


def publish(outcomes: Mapping[str, StageOutcome]) -> None:
    """Publish the result as Prefect artifacts: stages, accuracies, findings and the report."""
    create_table_artifact(
        key="stages",
        description="What each stage did",
        table=[
            {
                "stage": name,
                "how": "reused" if outcome.reused else "ran",
                "seconds": round(outcome.seconds, 1),
                "fingerprint": outcome.artifact.fingerprint,
                "tokens/s": outcome.artifact.summary.get("tokens_per_second", ""),
            }
            for name, outcome in outcomes.items()
        ],
    )
    evaluation = EvaluationSummary.of(outcomes["evaluation"].artifact)
    create_table_artifact(
        key="accuracy",
        description="Per cent right; the change is student minus base with its 95 % interval",
        table=[
            {
                "set": place,
                **{model: round(places[place].accuracy * 100, 1) for model, places in evaluation.accuracy.items()},
                "change": f"{change.change * 100:+.1f} [{change.low * 100:+.1f}, {change.high * 100:+.1f}]",
                "p": f"{change.p:.2g}",
            }
            for place, change in evaluation.student_against_base.items()
        ],
    )
    report = outcomes["report"].artifact
    for title in ("accuracy-by-set", "weight-of-each-perspective-over-steps"):
        image = base64.b64encode(report.path(f"{title}.png").read_bytes()).decode()
        create_image_artifact(key=title, description=title.replace("-", " "), image_url=f"data:image/png;base64,{image}")
    findings = "\n".join(f"- {finding}" for finding in ReportSummary.of(report).findings)
    create_markdown_artifact(key="findings", description="Findings", markdown=findings)
    link = report_link(report)
    if link is not None:
        create_link_artifact(key="report", link=link, link_text="Open the report")
    else:
        create_markdown_artifact(key="report", markdown=report_place(report))


@flow(
    name="distill",
    flow_run_name="{job.title}",
    validate_parameters=True,
    on_crashed=[end_tasks_with_flow],
    on_cancellation=[end_tasks_with_flow],
)
def distill(job: Job) -> dict[str, float]:
    """Questions -> references -> sampling -> synthesis -> training -> evaluation -> report. Returns the seconds of the stages that ran."""
    end_tasks_of_earlier_processes()
    outcomes = run_all(job.load(), job.stage_runner == "deployment")
    publish(outcomes)
    return {name: outcome.seconds for name, outcome in outcomes.items() if not outcome.reused}


def run_all(config: RunConfig, elsewhere: bool = False) -> dict[str, StageOutcome]:
    """Run every stage in order; the run is in the catalogue from the start. A stage that runs elsewhere is tracked there."""
    outcomes: dict[str, StageOutcome] = {}
    planned = plan(config)
    if not elsewhere:
        check_machine(config.training)  # before the teacher is paid for
    tracked = nullcontext(Followed([])) if elsewhere else followed(config)
    record(config, planned, "running")
    try:
        with tracked as trackers:
            for name, fingerprint in fingerprints(planned).items():
                state: State[float] = run_stage(name, fingerprint, config, elsewhere, return_state=True)  # type: ignore[assignment]
                seconds = state.result()
                outcomes[name] = StageOutcome(store_of(config).open(name, fingerprint), state.name == "Cached", seconds)
                say_stage(name, outcomes[name])
                trackers.finished(outcomes[name].artifact)
    except BaseException as error:
        record(config, planned, "failed" if isinstance(error, Exception) else "stopped")
        raise
    record(config, planned, "done")
    return outcomes
