"""Whether an artifact is still what was committed: every file re-hashed, counted and opened, and its name recomputed.

Needs the artifact alone: no network beyond the root, no model in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from pipeline.errors import ArtifactError
from storage.artifact import MANIFEST, Artifact
from storage.fingerprint import file_digest, fingerprint
from storage.store import Store


class Finding(NamedTuple):
    """Something that is not as it should be."""

    where: str
    problem: str


def _broken(path: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with one file of a manifest."""
    if not path.is_file():
        return "missing"
    if path.stat().st_size != entry["bytes"]:
        return f"has {path.stat().st_size} bytes, not {entry['bytes']}"
    if file_digest(path) != entry["sha256"]:
        return "content differs from the manifest"
    try:
        if path.suffix == ".parquet" and (rows := pq.read_metadata(path).num_rows) != entry["rows"]:
            return f"has {rows} rows, not {entry['rows']}"
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as tensors:
                tensors.keys()
    except (pa.ArrowException, OSError, SafetensorError) as error:
        return f"cannot be opened ({error})"
    return None


def _findings(store: Store, artifact: Artifact) -> Iterator[Finding]:
    manifest = artifact.manifest
    if fingerprint(manifest["identity"]) != artifact.fingerprint:
        yield Finding(f"{artifact.folder}/{MANIFEST}", "its identity does not give its fingerprint: it was altered")
    if store.remote is not None:
        shutil.rmtree(artifact.folder, ignore_errors=True)  # what is here is a copy; what is there counts
    for entry in manifest["files"]:
        problem = None
        try:
            path = artifact.path(entry["path"])
        except (ArtifactError, FileNotFoundError):
            problem = "missing, or content differs from the manifest"
        problem = problem or _broken(path, entry)
        if problem is not None:
            yield Finding(f"{artifact.name}/{entry['path']}", problem)
    known = {MANIFEST, *(entry["path"] for entry in manifest["files"])}
    for extra in sorted(path for path in artifact.folder.rglob("*") if path.is_file()):
        if extra.relative_to(artifact.folder).as_posix() not in known:
            yield Finding(str(extra), "not in the manifest")
    for stage, digest in manifest["inputs"].items():
        if not store.exists(stage, digest):
            yield Finding(artifact.name, f"was made from {stage}/{digest}, which is gone")


def verify(store: Store, stage: str, digest: str) -> list[Finding]:
    """Everything that is wrong with an artifact; nothing if it is whole."""
    try:
        artifact = Artifact(store.folder(stage, digest), store.manifest(stage, digest), store.remote)
    except ArtifactError as error:
        return [Finding(f"{stage}/{digest}", str(error))]
    return list(_findings(store, artifact))
