"""Sends to Weights & Biases, or writes its offline files.

A step that its server already has is dropped there, because steps never fall. Offline, each process writes a run folder of its own with the
same id; `wandb sync` joins them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flows.tracking.tracker import TrackedRun, Tracker
from pipeline.config.tracking import Tracking

_OPEN_SECONDS: Final = 20.0


def has_key() -> bool:
    """Whether the environment or `wandb login` gives a key for the server in use; the server is not asked."""
    import wandb
    from requests.utils import get_netrc_auth

    known = wandb.setup(wandb.Settings(silent=True)).settings
    return bool(known.api_key or known.identity_token_file or get_netrc_auth(known.base_url))


class _WeightsAndBiases:
    def __init__(self, run: Any, name: str) -> None:
        self._run, self._name = run, name

    def last_step(self) -> int | None:
        return None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def summarise(self, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def keep(self, page: Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"{self._name}-report", type="report")
        artifact.add_file(str(page))
        self._run.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def open_wandb(run: TrackedRun, tracking: Tracking, sent: int) -> Tracker:
    """The run in the project, new or resumed."""
    import wandb

    settings = tracking.wandb
    assert settings is not None, "only a tracker that is set is opened"
    folder = run.folder / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    # The configuration and the curves are sent; the command line, code, and terminal output of this process are not.
    quiet = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, disable_job_creation=True, init_timeout=_OPEN_SECONDS
    )
    opened = wandb.init(
        project=settings.project, entity=settings.entity, mode=settings.mode, id=run.id, name=run.name, group=run.name,
        config=run.config, dir=str(folder), resume="allow", allow_val_change=True, settings=quiet,
    )  # fmt: skip
    return _WeightsAndBiases(opened, run.title)
