"""The `tracking` section: experiment trackers that show a run's curves, summaries and report beside other experiments.

Trackers read what the artifacts hold and decide nothing, so all fields are runtime fields. Each tracker is a package of its own, an extra
of this one.
"""

from __future__ import annotations

from typing import Literal

from pipeline.schema.fields import Address, Frozen, runtime


class WeightsAndBiases(Frozen):
    """Weights & Biases (extra `wandb`). The key is in its own environment variable WANDB_API_KEY, or stored by `wandb login`."""

    project: str = runtime("mind", pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    """Project of the runs."""
    entity: str | None = runtime(None, pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    """User or team that owns the project; the account's default if left out."""
    mode: Literal["online", "offline"] = runtime("online")
    """`offline` writes files under `<root>/tracking/wandb`, for `wandb sync`."""


class MLflow(Frozen):
    """MLflow (extra `mlflow`). What the server asks for is in its own environment variables, such as MLFLOW_TRACKING_TOKEN."""

    uri: Address | None = runtime(None)
    """The tracking server; an SQLite file under `<root>/tracking/mlflow` if left out."""
    experiment: str = runtime("mind", min_length=1, max_length=200)
    """Experiment of the runs."""


class Tracking(Frozen):
    """Trackers to send to; several at once are possible."""

    tensorboard: bool = runtime(False)
    """TensorBoard (extra `tensorboard`): event files under `<root>/tracking/tensorboard`."""
    wandb: WeightsAndBiases | None = runtime(None)
    """Weights & Biases."""
    mlflow: MLflow | None = runtime(None)
    """MLflow."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the trackers that are set."""
        return tuple(name for name in type(self).model_fields if getattr(self, name))
