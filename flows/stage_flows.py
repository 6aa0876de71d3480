"""One flow per stage, for deployments: runs the stage of a run in the catalogue on the worker's machine.

Behaves like `mind stage`: an existing artifact is `Cached`, an unfinished one is resumed.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.run_records import record_stage, require_inputs
from flows.stage_task import end_tasks_of_earlier_processes, end_tasks_with_flow, run_stage
from flows.tracking.following import followed
from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError
from pipeline.schema.fields import RunName
from stages.core.plan import plan
from stages.core.process import store_of
from storage.catalogue import read_run
from storage.store import open_store

Run = Annotated[RunName, Field(description="a run's name in the catalogue (`mind status`)")]
Root = Annotated[str, Field(min_length=1, description="the artifact root: a folder, or a URL such as s3://bucket/prefix")]


def recorded(run: str, root: str) -> RunConfig:
    """The configuration of a run in the catalogue.

    Raises:
        ConfigError: no such run exists.
    """
    found = read_run(open_store(root).backend, run)
    if found is None or not found["config"]:
        raise ConfigError(f"{root}: no run called {run!r} with a configuration; `mind status --root {root}` lists them")
    return RunConfig.model_validate(found["config"])


def _stage(stage: str, run: str, root: str) -> State[Any]:
    end_tasks_of_earlier_processes()
    config = recorded(run, root)
    planned = plan(config)[stage]
    require_inputs(store_of(config), planned)
    with followed(config) as trackers:
        state: State[float] = run_stage(stage, planned.fingerprint, config, return_state=True)  # type: ignore[assignment]
        state.result()
        trackers.finished(store_of(config).open(stage, planned.fingerprint))
    record_stage(config)
    return Completed(name=state.name or "Completed", message=state.message)


def _flow(stage: str) -> Any:
    @flow(
        name=stage,
        flow_run_name=f"{stage} {{run}}",
        description=f"The {stage} stage of a run in the catalogue.",
        on_crashed=[end_tasks_with_flow],
        on_cancellation=[end_tasks_with_flow],
    )
    def run_it(run: Run, root: Root = "artifacts") -> State[Any]:
        return _stage(stage, run, root)

    return run_it


questions: Final = _flow("questions")
references: Final = _flow("references")
sampling: Final = _flow("sampling")
synthesis: Final = _flow("synthesis")
training: Final = _flow("training")
evaluation: Final = _flow("evaluation")
report: Final = _flow("report")
