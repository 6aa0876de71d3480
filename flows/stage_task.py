"""Runs one stage as a Prefect task: `Cached` if its artifact exists, otherwise a watched child process.

The task shows a progress artifact with rate and time left, the stage's log lines (rate-limited, so that the server is not flooded), and, if
the stage fails, the last lines of its log in the state's message. Stages that may use an accelerator take this machine's slot.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final
from uuid import UUID

from httpx import HTTPError
from prefect import get_run_logger, runtime, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectException
from prefect.states import Completed, Crashed
from prefect.utilities.urls import url_for

from flows.machine_slot import machine_slot
from flows.stage_process import OnProgress, run_child
from flows.terminal_progress import watching
from pipeline.config.run import RunConfig
from pipeline.errors import StageFailed
from stages.core.plan import plan
from stages.core.process import store_of
from stages.core.progress import counted

PROGRESS_SECONDS: Final = 2.0
LOG_SECONDS: Final = 5.0
LOG_LINES: Final = 20
ACCELERATED: Final = ("references", "sampling", "synthesis", "training", "evaluation")
DEPLOYMENTS: Final = {stage: f"{stage}/gpu" for stage in ACCELERATED} | {"questions": "questions/cpu", "report": "report/cpu"}


def end_left_tasks(flow_run: UUID | str) -> None:
    """End the task runs that a killed process of a flow run left unfinished; nothing else would ever end them."""
    unfinished = {"state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING]}, "name": None}}
    with get_client(sync_client=True) as client:
        left = client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [flow_run]}}),
            task_run_filter=TaskRunFilter.model_validate(unfinished),
        )
        for task_run in left:
            client.set_task_run_state(task_run.id, Crashed(message="the flow's process ended before this task"), force=True)


def end_tasks_of_earlier_processes() -> None:
    """At the start of a flow: a retried run may have task runs of a process that was killed."""
    if runtime.flow_run.run_count > 1:
        end_left_tasks(runtime.flow_run.id)


def end_tasks_with_flow(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook for a flow that crashed or was cancelled; the worker calls it when the flow's process has ended."""
    end_left_tasks(flow_run.id)


def _update(artifact: Any, progress: float, description: str) -> None:
    """Update the progress on the server; an unreachable server must not stop a running stage."""
    try:
        update_progress_artifact(artifact_id=artifact, progress=progress, description=description)
    except (HTTPError, PrefectException) as error:
        get_run_logger().warning("progress could not be shown: %s", error)


def _reporting(stage: str, artifact: Any, show: OnProgress) -> OnProgress:
    """Show progress in the terminal, and update a Prefect progress artifact every few seconds."""
    last = {"at": 0.0}

    def report(found: Mapping[str, Any]) -> None:
        show(found)
        now = time.monotonic()
        if now - last["at"] > PROGRESS_SECONDS and found["total"]:
            last["at"] = now
            left = "" if found["seconds_left"] is None else f", {found['seconds_left']:,.0f} s left"
            rate = f"{found['rate']:,.1f} {found['unit']}/s"
            _update(
                artifact,
                100 * (found["done"] + found["inside"]) / found["total"],
                f"{stage}: {found['label']}: {counted(found)}, {rate}{left} {found['note']}".rstrip(),
            )

    return report


class _Lines:
    """Forwards log lines, at most `LOG_LINES` every `LOG_SECONDS`; the rest are only in the log file."""

    def __init__(self) -> None:
        self._sent, self._since, self._left_out = 0, time.monotonic(), 0

    def __call__(self, lines: list[str]) -> None:
        now = time.monotonic()
        if now - self._since > LOG_SECONDS:
            self._sent, self._since = 0, now
        room = max(0, LOG_LINES - self._sent)
        shown = lines[-room:] if room else []
        self._left_out += len(lines) - len(shown)
        if shown:
            before = f"({self._left_out} more lines are in the log file only)\n" if self._left_out else ""
            get_run_logger().info("%s%s", before, "\n".join(shown))
            self._sent, self._left_out = self._sent + len(shown), 0


def _run_here(config: RunConfig, stage: str, given: Mapping[str, str]) -> float:
    """Run the stage on this machine; returns its seconds without the time spent waiting for the slot."""
    progress: Any = create_progress_artifact(progress=0.0, key=f"{stage}-progress", description=f"{stage}: starting")
    slot = machine_slot(stage) if stage in ACCELERATED else nullcontext()
    with slot, watching(stage) as show:
        began = time.monotonic()
        page = url_for("flow-run", runtime.flow_run.id)
        run_child(config, plan(config, given)[stage], _reporting(stage, progress, show), _Lines(), page)
        seconds = time.monotonic() - began
    _update(progress, 100.0, f"{stage}: done")
    return seconds


def _run_deployment(config: RunConfig, stage: str) -> float:
    """Run the stage through its own deployment, which finds the run by its name in the catalogue."""
    began = time.monotonic()
    parameters = {"run": config.name, "root": config.root}
    answer: Any = run_deployment(
        DEPLOYMENTS[stage], parameters=parameters, timeout=None, flow_run_name=f"{stage} {config.name}"
    )
    if not answer.state.is_completed():
        raise StageFailed(f"{stage}: deployment {DEPLOYMENTS[stage]} ended as {answer.state.name}: {answer.state.message}")
    return time.monotonic() - began


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{stage} {fingerprint}")
def run_stage(
    stage: str, fingerprint: str, config: RunConfig, elsewhere: bool = False, given: Mapping[str, str] | None = None
) -> State[float]:
    """Run one stage. The result is its duration in seconds; 0 if it was cached."""
    store = store_of(config)
    if store.exists(stage, fingerprint):
        return Completed(name="Cached", message=f"{stage}/{fingerprint} already exists", data=0.0)
    seconds = _run_deployment(config, stage) if elsewhere else _run_here(config, stage, given or {})
    get_run_logger().info("%s wrote %s in %.1f s", stage, store.folder(stage, fingerprint), seconds)
    return Completed(message=f"wrote {stage}/{fingerprint} in {seconds:.1f} s", data=seconds)
