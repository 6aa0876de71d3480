"""Sends to an MLflow server, or writes an SQLite file that `mlflow ui --backend-store-uri sqlite:///FILE` shows.

The run is found by its tag `mind.training`. MLflow would store a step twice, so the last step that it has is asked for.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flows.tracking.tracker import TrackedRun, Tracker
from pipeline.config.tracking import Tracking

_TAG: Final = "mind.training"
_LOSS: Final = "train/loss"
_BATCH: Final = 500
"""MLflow takes at most 1,000 metrics, and 100 parameters, in one request."""
_PARAMETERS: Final = 100
_LONGEST_PARAMETER: Final = 500


class _MLflow:
    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run, self._step = client, run, 0

    def last_step(self) -> int | None:
        self._step = max((point.step for point in self._client.get_metric_history(self._run, _LOSS)), default=0)
        return self._step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        self._send(values)

    def summarise(self, values: Mapping[str, float]) -> None:
        self._send(values)

    def _send(self, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, self._step) for name, value in values.items()]
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._run, metrics=metrics[first : first + _BATCH])

    def keep(self, page: Path) -> None:
        self._client.log_artifact(self._run, str(page))

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _parameters(config: Mapping[str, Any], place: str = "") -> dict[str, str]:
    """The configuration as MLflow's flat parameters, cut to the length that it takes."""
    found: dict[str, str] = {}
    for name, value in config.items():
        key = f"{place}.{name}".lstrip(".")
        found |= _parameters(value, key) if isinstance(value, Mapping) else {key: str(value)[:_LONGEST_PARAMETER]}
    return found


def open_mlflow(run: TrackedRun, tracking: Tracking, sent: int) -> Tracker:
    """The run in the experiment, new or continued."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Param

    settings = tracking.mlflow
    assert settings is not None, "only a tracker that is set is opened"
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # its notes on the making of a database would stand in the terminal
    folder = run.folder / "mlflow"
    artifacts = None
    if settings.uri is None:
        folder.mkdir(parents=True, exist_ok=True)
        artifacts = str((folder / "artifacts").resolve())
    client = MlflowClient(tracking_uri=settings.uri or f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    experiment = client.get_experiment_by_name(settings.experiment)
    where = client.create_experiment(settings.experiment, artifacts) if experiment is None else experiment.experiment_id
    found = client.search_runs([where], f"tags.`{_TAG}` = '{run.id}'", max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return _MLflow(client, found[0].info.run_id)
    created = client.create_run(where, run_name=run.name, tags={_TAG: run.id})
    parameters = [Param(name, value) for name, value in _parameters(run.config).items()]
    for first in range(0, len(parameters), _PARAMETERS):
        client.log_batch(created.info.run_id, params=parameters[first : first + _PARAMETERS])
    return _MLflow(client, created.info.run_id)
