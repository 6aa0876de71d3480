"""The distillation as a Prefect flow: one task per stage, in order, each in a process of its own.

Whether a stage has to run is decided by the artifacts on disk, never by Prefect's result cache: a finished stage's task ends in the state
`Cached`. What passes between tasks is a fingerprint. `PREFECT_API_URL` decides where the run is shown; without it Prefect starts a
temporary server.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from httpx import HTTPError
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Completed

from flows import terminal
from flows.child import OnProgress, run_child
from flows.plain import fingerprints, record
from flows.terminal import StageOutcome
from pipeline.config import RunConfig
from stages.chain import plan
from stages.process import store_of

PROGRESS_SECONDS: Final = 2.0


def _update(artifact: Any, progress: float, description: str) -> None:
    """Tell the server; a server that does not answer must not end a stage that runs well."""
    try:
        update_progress_artifact(artifact_id=artifact, progress=progress, description=description)
    except (HTTPError, PrefectException) as error:
        get_run_logger().warning("progress could not be shown: %s", error)


def _reporting(stage: str, artifact: Any, show: OnProgress) -> OnProgress:
    """Draw in the terminal, and update a Prefect progress artifact every few seconds."""
    last = {"at": 0.0}

    def report(found: Mapping[str, Any]) -> None:
        show(found)
        now = time.monotonic()
        if now - last["at"] > PROGRESS_SECONDS and found["total"]:
            last["at"] = now
            rate = f"{found['rate']:.1f} {found['unit']}/s"
            _update(
                artifact,
                100 * found["done"] / found["total"],
                f"{stage}: {found['label']}: {found['done']}/{found['total']} {found['unit']}, {rate} {found['note']}",
            )

    return report


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{stage} {fingerprint}")
def run_stage(stage: str, fingerprint: str, config: RunConfig) -> State[float]:
    """One stage: `Cached` where its artifact is there, otherwise its process, watched."""
    store = store_of(config)
    if store.exists(stage, fingerprint):
        return Completed(name="Cached", message=f"{stage}/{fingerprint} is there already", data=0.0)
    began = time.monotonic()
    progress: Any = create_progress_artifact(progress=0.0, key=f"{stage}-progress", description=f"{stage}: starting")
    with terminal.watching(stage) as show:
        run_child(config, plan(config)[stage], _reporting(stage, progress, show))
    _update(progress, 100.0, f"{stage}: done")
    seconds = time.monotonic() - began
    get_run_logger().info("%s wrote %s in %.1f s", stage, store.folder(stage, fingerprint), seconds)
    return Completed(message=f"wrote {stage}/{fingerprint} in {seconds:.1f} s", data=seconds)


def _publish(outcomes: Mapping[str, StageOutcome]) -> None:
    """The result as Prefect artifacts: what each stage did, the accuracies, the report."""
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
    evaluation = outcomes["evaluation"].artifact.summary
    create_table_artifact(
        key="accuracy",
        description="Per cent right; the change is student minus base with its 95 % interval",
        table=[
            {
                "set": place,
                **{model: round(places[place]["accuracy"] * 100, 1) for model, places in evaluation["accuracy"].items()},
                "change": f"{change['change'] * 100:+.1f} [{change['low'] * 100:+.1f}, {change['high'] * 100:+.1f}]",
                "p": f"{change['p']:.2g}",
            }
            for place, change in evaluation["student_against_base"].items()
        ],
    )
    findings = "\n".join(f"- {finding}" for finding in outcomes["report"].artifact.summary["findings"])
    create_markdown_artifact(key="findings", description="What happened", markdown=findings)
    create_link_artifact(key="report", link=terminal.page(outcomes).as_uri(), link_text="The report")


@flow(name="distill", flow_run_name="{config.name}", validate_parameters=True)
def distill(config: RunConfig) -> dict[str, float]:
    """Questions -> sampling -> synthesis -> training -> evaluation -> report. Returns the seconds of the stages that ran."""
    outcomes: dict[str, StageOutcome] = {}
    planned = plan(config)
    record(config, planned, "running")
    try:
        for name, fingerprint in fingerprints(planned).items():
            state: State[float] = run_stage(name, fingerprint, config, return_state=True)  # type: ignore[assignment]
            seconds = state.result()
            artifact = store_of(config).open(name, fingerprint)
            outcomes[name] = StageOutcome(artifact, state.name == "Cached", seconds)
            terminal.say_stage(name, outcomes[name])
    except BaseException as error:
        record(config, planned, "failed" if isinstance(error, Exception) else "stopped")
        raise
    _publish(outcomes)
    record(config, planned, "done")
    return {name: outcome.seconds for name, outcome in outcomes.items() if not outcome.reused}
