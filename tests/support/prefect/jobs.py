"""Jobs with their own artifact roots, filled from a finished run, so that only the stages under test have to run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from flows.run_records import record
from pipeline.config.run import RunConfig, load_config
from stages.core.plan import StagePlan, plan
from stages.core.process import store_of
from storage.artifact import Artifact
from storage.store import Store
from tests.support.kill_campaign import CONFIG, overrides
from tests.support.prefect.server import Prefect, eventually, processes_with


@dataclass(frozen=True)
class Job:
    """Parameters of a deployment run, and its artifact root."""

    root: Path
    teacher: str
    name: str
    more: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[str, ...]:
        return (*overrides(self.root, self.teacher), *self.more)

    @property
    def parameters(self) -> dict[str, Any]:
        return {"job": {"config": str(CONFIG), "name": self.name, "changes": list(self.changes)}}

    @property
    def config(self) -> RunConfig:
        return load_config(CONFIG, (*self.changes, f"name={self.name}"))

    @property
    def store(self) -> Store:
        return store_of(self.config)

    def plan(self) -> dict[str, StagePlan]:
        return plan(self.config)

    def fingerprint(self, stage: str) -> str:
        return self.plan()[stage].fingerprint

    def artifact(self, stage: str) -> Artifact:
        return self.store.open(stage, self.fingerprint(stage))

    def with_changes(self, *more: str) -> Job:
        """The same root and name with more configuration changes."""
        return replace(self, more=(*self.more, *more))

    def record(self) -> None:
        """Record the job in the catalogue, as `mind run` does at its start."""
        record(self.config, self.plan(), "running")

    def checkpoint(self) -> int:
        """The step of the last checkpoint, or 0 without one."""
        found = list(self.root.glob("training/*.scratch/checkpoint.json"))
        return int(orjson.loads(found[0].read_bytes())["step"]) if found else 0

    def log(self, stage: str) -> str:
        return (self.root / stage / f"{self.fingerprint(stage)}.log").read_text()


def fill_job(job: Job, source: Path, without: tuple[str, ...] = ()) -> Job:
    """Copies this job's artifacts from `source`, except for the stages in `without`."""
    for stage, planned in job.plan().items():
        if stage not in without:
            name = Path(stage) / planned.fingerprint
            shutil.copytree(source / name, job.root / name)
    return job


def start_training(prefect: Prefect, job: Job) -> str:
    """Start a job that only lacks training, and wait for a checkpoint; returns the flow run's id."""
    run = prefect.start("distill/full", job.parameters)
    eventually(lambda: job.checkpoint() >= 2, "a checkpoint")
    assert len(processes_with(str(job.root))) >= 5, "the guard, the stage, the launcher and two ranks"
    return run


def copy_artifact(job: Job, stage: str, source: Artifact) -> None:
    """Copy another artifact under the fingerprint of this job's stage."""
    planned = job.plan()[stage]
    folder = job.root / stage / planned.fingerprint
    shutil.copytree(source.folder, folder)
    own = {"fingerprint": planned.fingerprint, "identity": planned.identity, "inputs": planned.inputs}
    (folder / "manifest.json").write_bytes(orjson.dumps({**source.manifest, **own}))


def file_contents(folder: Path) -> Mapping[str, bytes]:
    """Contents of all files under a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NewJob = Callable[..., Job]


class Crashed(NamedTuple):
    """A run whose flow process was killed during training."""

    job: Job
    run: str
    state: dict[str, Any]
    orphans_for: float
    step: int
