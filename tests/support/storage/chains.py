"""Small artifacts and chains of artifacts, as stages commit them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.artifact import Artifact
from storage.fingerprint import fingerprint
from storage.store import Store
from tests.support.storage.processes import numbers

VERSION_1 = Path(__file__).parent / "fixtures" / "version-1"


def commit_artifact(store: Store, stage: str, inputs: Mapping[str, str] | None = None, **config: Any) -> Artifact:
    """An artifact fingerprinted by stage, inputs and configuration, with a table and a file in a subfolder."""
    identity = {"stage": stage, "version": 1, "config": config, "inputs": dict(inputs or {}), "outside": {}}
    with store.draft(stage, fingerprint(identity)) as draft:
        draft.write_shard("rows", numbers(*range(3)))
        draft.write_shard("rows", numbers(3))
        draft.path("student").mkdir()
        draft.path("student/weights").write_bytes(repr(sorted(config.items())).encode())
        manifest = {"identity": identity, "inputs": dict(inputs or {}), "config": config, "summary": {"rows": 4}}
        return store.commit(draft, {**manifest, "timing": {"started": "2026-01-01T00:00:00+00:00"}})


def chain(store: Store, **config: Any) -> list[Artifact]:
    """A chain of three artifacts: questions, sampling and training."""
    questions = commit_artifact(store, "questions", **config)
    sampling = commit_artifact(store, "sampling", {"questions": questions.fingerprint}, **config)
    inputs = {"questions": questions.fingerprint, "sampling": sampling.fingerprint}
    return [questions, sampling, commit_artifact(store, "training", inputs, **config)]


def files(folder: Path) -> dict[str, bytes]:
    """Contents of all files under a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
