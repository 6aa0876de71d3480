"""A store: all artifacts under one root.

A root is a local folder, or a URL that fsspec opens together with a local folder (the workspace) for working on its files. Both hold the
same files under the same names:

    <root>/<stage>/<fingerprint>/           complete artifact, with a manifest
    <root>/<stage>/<fingerprint>.lease/     lease of the process that writes it
    <root>/<stage>/<fingerprint>.scratch/   files that only a resumed run needs, for example checkpoints
    <root>/<stage>/<fingerprint>.partial/   local only: the draft, renamed when complete

A remote root, which has no rename, has no `.partial`: shards are uploaded under their final names, and the manifest, written last,
completes the artifact.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson
import pyarrow.parquet as pq

from storage import lease
from storage.artifact import MANIFEST, Artifact, Draft
from storage.atomic import sync_file, sync_folder, write_bytes, writing
from storage.backend import Backend, LocalBackend, ObjectStore
from storage.documents import MANIFEST_VERSION, File, Manifest, parse_manifest
from storage.errors import ArtifactError, ArtifactMissing, BadRoot
from storage.fingerprint import file_digest
from storage.mirror import Mirror

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}")
_SHARED: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Protocols of object stores. Others (http, memory, ftp, zip) have no conditional put or end with the process."""


@dataclass(frozen=True)
class Store:
    """The store at `root`, a local folder; with `remote`, `root` is its workspace."""

    root: Path
    remote: ObjectStore | None = None

    @property
    def backend(self) -> Backend:
        """The backend that holds artifacts and documents."""
        return self.remote if self.remote is not None else LocalBackend(self.root)

    def folder(self, stage: str, fingerprint: str) -> Path:
        """An artifact's folder on this machine; it may not exist yet."""
        return self.root / stage / fingerprint

    def exists(self, stage: str, fingerprint: str) -> bool:
        """Whether a complete artifact exists."""
        return self.backend.has(f"{stage}/{fingerprint}/{MANIFEST}")

    def fingerprints(self, stage: str) -> list[str]:
        """Fingerprints of a stage's artifacts, complete or not, in order."""
        return [name for name in self.backend.names(stage) if _FINGERPRINT.fullmatch(name)]

    def manifest(self, stage: str, fingerprint: str) -> Manifest:
        """The manifest of a complete artifact.

        Raises:
            ArtifactMissing: no such artifact exists.
            ArtifactError: it is damaged, or written by a newer version.
        """
        return self._manifest(stage, fingerprint)[1]

    def _manifest(self, stage: str, fingerprint: str) -> tuple[bytes, Manifest]:
        key = f"{stage}/{fingerprint}/{MANIFEST}"
        content, where = self.backend.read(key), f"{self.remote.url if self.remote is not None else self.root}/{key}"
        if content is None:
            raise ArtifactMissing(f"{where.removesuffix(f'/{MANIFEST}')}: no {stage} artifact; run the {stage} stage first")
        manifest = parse_manifest(content, where)
        if (manifest["stage"], manifest["fingerprint"]) != (stage, fingerprint):
            raise ArtifactError(f"{where}: belongs to {manifest['stage']}/{manifest['fingerprint']}; remove its folder")
        return content, manifest

    def open(self, stage: str, fingerprint: str) -> Artifact:
        """Open a complete artifact.

        Raises:
            ArtifactMissing: no such artifact exists.
            ArtifactError: a file of the manifest is missing or has the wrong size.
        """
        content, manifest = self._manifest(stage, fingerprint)
        artifact = Artifact(self.folder(stage, fingerprint), manifest, self.remote)
        if self.remote is not None:
            _renew(artifact.folder, content)
        else:
            for entry in artifact.manifest["files"]:
                path = artifact.folder / entry["path"]
                if not path.is_file() or path.stat().st_size != entry["bytes"]:
                    raise ArtifactError(f"{path}: missing or of the wrong size; remove {artifact.folder} and run {stage} again")
        return artifact

    @contextmanager
    def draft(self, stage: str, fingerprint: str, inputs: Mapping[str, str] = MappingProxyType({})) -> Iterator[Draft]:
        """Hold the lease on an artifact and its partial folder while the body writes it; garbage collection keeps `inputs` meanwhile.

        Raises:
            ArtifactBusy: another live process writes it.
            RootNotWritable: the root cannot be written.
        """
        partial = self.folder(stage, fingerprint).with_suffix(".partial")
        with writing(self.root):
            partial.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(partial.parent, os.W_OK):
                raise PermissionError(13, "permission denied")
        if self.remote is not None:
            self.remote.check_conditional_put()
        name, needs = f"{stage}/{fingerprint}", tuple(f"{needed}/{digest}" for needed, digest in inputs.items())
        with lease.hold(self.backend, f"{name}.lease", name, needs) as held:
            with writing(self.root):
                partial.mkdir(exist_ok=True)
            for leftover in partial.rglob(".*.tmp"):
                leftover.unlink()
            mirror = None if self.remote is None else Mirror(self.remote, self.root, name)
            draft = Draft(partial, stage, fingerprint, held, mirror)
            if not self.exists(stage, fingerprint):
                draft.take_up()
            yield draft

    def commit(self, draft: Draft, manifest: Mapping[str, Any]) -> Artifact:
        """Turn a draft into an artifact.

        The time spent by earlier processes is added to `manifest["timing"]["seconds"]`.
        """
        (draft.folder / MANIFEST).unlink(missing_ok=True)
        return self.adopt(draft, orjson.dumps(self._document(draft, manifest), option=orjson.OPT_INDENT_2))

    def adopt(self, draft: Draft, manifest: bytes) -> Artifact:
        """Turn a draft into an artifact with this manifest.

        Locally: manifest, fsync, rename, fsync. Remotely: every file, then the manifest.

        Raises:
            LeaseLost: another process took the draft over; it may have finished it.
        """
        draft.check()
        if draft.mirror is not None:
            draft.mirror.send_changes()
        write_bytes(draft.folder / MANIFEST, manifest)
        for folder in [path for path in draft.folder.rglob("*") if path.is_dir()]:
            sync_folder(folder)
        draft.check()
        if draft.mirror is not None and not draft.mirror.remote.create(f"{draft.name}/{MANIFEST}", manifest):
            raise draft.lease.lose()
        final = self.folder(draft.stage, draft.fingerprint)
        if final.exists():  # not an artifact, as it has no manifest: left by a cache or created by hand
            shutil.rmtree(final)
        draft.folder.rename(final)
        sync_folder(final.parent)
        sync_folder(final.parent.parent)
        draft.lease.finished = True
        shutil.rmtree(draft.folder.with_suffix(".scratch"), ignore_errors=True)
        draft.digests.unlink(missing_ok=True)
        if draft.mirror is not None:
            draft.mirror.close()
        return self.open(draft.stage, draft.fingerprint)

    def _document(self, draft: Draft, manifest: Mapping[str, Any]) -> dict[str, Any]:
        holder = draft.lease.holder
        timing = {
            "started": "",
            **manifest.get("timing", {}),
            "seconds": round(holder.seconds_before + draft.lease.seconds(), 2),
            "processes": holder.number,
        }
        return {
            "schema_version": MANIFEST_VERSION,
            "stage": draft.stage,
            "fingerprint": draft.fingerprint,
            "identity": {},
            "inputs": {},
            "config": {},
            "summary": {},
            "peak_mib": 0,
            "provenance": {},
            **manifest,
            "timing": timing,
            "files": _listing(draft.folder),
        }


def _renew(folder: Path, manifest: bytes) -> None:
    """Prepare a workspace folder for this manifest: files downloaded for another manifest of the artifact may differ and are removed."""
    kept = folder / MANIFEST
    if kept.exists() and kept.read_bytes() == manifest:
        return
    if any(not path.name.endswith(".tmp") for path in folder.glob("*")):
        shutil.rmtree(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_bytes(kept, manifest)


def _rows(path: Path) -> int | None:
    return int(pq.read_metadata(path).num_rows) if path.suffix == ".parquet" else None


def _listing(folder: Path) -> list[File]:
    found: list[File] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sync_file(path)
        found.append(
            {
                "path": path.relative_to(folder).as_posix(),
                "bytes": path.stat().st_size,
                "rows": _rows(path),
                "sha256": file_digest(path),
            }
        )
    return found


def open_store(root: str, workspace: Path | None = None) -> Store:
    """The store at a local folder or a URL.

    Raises:
        BadRoot: the URL contains credentials, or is not that of an object store; a NUL in it.
    """
    if "\0" in root:
        raise BadRoot(f"root: {root!r}: contains a NUL; correct root")
    if "://" not in root:
        if os.path.isfile(root):  # noqa: PTH113 - Path.is_file raises for a name that no file system takes
            raise BadRoot(f"root: {root}: is a file; give a folder")
        return Store(Path(root))
    address = root.partition("://")[2]
    if "@" in address.split("/")[0]:
        raise BadRoot("root: contains a user name or password, which manifests would record; put it in the environment")
    protocol = root.partition("://")[0]
    if protocol in ("file", "local"):
        raise BadRoot(f"root: {root}: give a local folder as a plain path")
    if protocol not in _SHARED:
        raise BadRoot(f"root: {root}: {protocol} is not an object store; use a local folder or one of {', '.join(_SHARED)}")
    return Store(workspace or _workspace(root), ObjectStore(root.rstrip("/")))


def _workspace(root: str) -> Path:
    """A folder of the user's cache for a remote root."""
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        place = Path(cache) if cache else Path.home() / ".cache"
    except RuntimeError as error:
        raise BadRoot(
            f"root: {root}: this user has no home folder for its workspace; set workspace or XDG_CACHE_HOME"
        ) from error
    return place / "mind" / hashlib.sha256(root.encode()).hexdigest()[:16]
