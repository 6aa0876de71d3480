"""Verifies that an artifact is still what was committed: re-hashes, counts and opens every file and recomputes the fingerprint.

Needs only the artifact: no network beyond the root, no model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from storage.artifact import MANIFEST, Artifact
from storage.atomic import writing
from storage.documents import File
from storage.errors import ArtifactError, Damaged, RootUnavailable
from storage.fingerprint import file_digest, fingerprint
from storage.store import Store


class Finding(NamedTuple):
    """A problem and its location."""

    where: str
    problem: str


def _broken(path: Path, entry: File) -> str | None:
    """The problem of one file of a manifest, or None."""
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


def _problem(artifact: Artifact, entry: File) -> str | None:
    try:
        return _broken(artifact.path(entry["path"]), entry)
    except Damaged:
        return "content differs from the manifest"
    except RootUnavailable:
        raise
    except ArtifactError:
        return "missing"


def _there(artifact: Artifact) -> list[str]:
    if artifact.remote is not None:
        return sorted(artifact.remote.tree(artifact.name))
    return sorted(path.relative_to(artifact.folder).as_posix() for path in artifact.folder.rglob("*") if path.is_file())


def _findings(store: Store, artifact: Artifact) -> Iterator[Finding]:
    manifest = artifact.manifest
    if fingerprint(manifest["identity"]) != artifact.fingerprint:
        yield Finding(f"{artifact.name}/{MANIFEST}", "identity and fingerprint do not match: the manifest was altered")
    for entry in manifest["files"]:
        problem = _problem(artifact, entry)
        if problem is not None:
            yield Finding(f"{artifact.name}/{entry['path']}", problem)
    known = {MANIFEST, *(entry["path"] for entry in manifest["files"])}
    for extra in _there(artifact):
        if extra not in known:
            yield Finding(f"{artifact.name}/{extra}", "not in the manifest")
    for stage, digest in manifest["inputs"].items():
        if not store.exists(stage, digest):
            yield Finding(artifact.name, f"its input {stage}/{digest} is missing")


def verify(store: Store, stage: str, digest: str) -> list[Finding]:
    """All problems of an artifact; empty if it is intact."""
    try:
        manifest = store.manifest(stage, digest)
    except RootUnavailable:
        raise
    except ArtifactError as error:
        return [Finding(f"{stage}/{digest}", str(error))]
    if store.remote is None:
        return list(_findings(store, Artifact(store.folder(stage, digest), manifest)))
    with writing(store.root):
        store.root.mkdir(parents=True, exist_ok=True)
    # The workspace holds a copy that a run may be reading; the remote files are authoritative and downloaded separately.
    with TemporaryDirectory(dir=store.root, prefix=".verify-") as folder:
        return list(_findings(store, Artifact(Path(folder), manifest, store.remote)))
