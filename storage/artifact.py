"""An artifact: a folder with a manifest that is complete or does not exist.

A `Draft` is one being written, under `<fingerprint>.partial`; its shards are each committed on their own and survive a kill. Its
`commit` writes the manifest and renames the folder, after which nothing in it ever changes. Opening an artifact checks that
every file of the manifest is there with its size; `verify` also re-hashes them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ArtifactError, ArtifactMissing, RootNotWritable
from storage import lease
from storage.atomic import parquet_batches, read_parquet, sync_file, sync_folder, write_bytes, write_parquet
from storage.fingerprint import file_digest

MANIFEST: Final = "manifest.json"
MANIFEST_VERSION: Final = 1


@dataclass(frozen=True)
class Artifact:
    """A complete artifact."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def stage(self) -> str:
        return str(self.manifest["stage"])

    @property
    def summary(self) -> dict[str, Any]:
        return dict(self.manifest["summary"])

    def path(self, name: str) -> Path:
        """A file of the artifact."""
        return self.folder / name

    def files(self, name: str) -> list[Path]:
        """`name.parquet`, or every shard `name-*.parquet` in order."""
        single = self.folder / f"{name}.parquet"
        shards = [single] if single.exists() else sorted(self.folder.glob(f"{name}-*.parquet"))
        if not shards:
            raise ArtifactError(f"{self.folder}: has no table {name!r}; remove the folder and run {self.stage} again")
        return shards

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """All rows of a table at once: for tables that are known to be small, or a few narrow columns."""
        return pa.concat_tables([read_parquet(shard, columns) for shard in self.files(name)])

    def batches(self, name: str, columns: list[str] | None = None, rows: int = 4096) -> Iterator[pa.RecordBatch]:
        """The rows of a table in order, at most `rows` at a time, so that memory does not grow with the table."""
        for shard in self.files(name):
            yield from parquet_batches(shard, columns, rows)


@dataclass(frozen=True)
class Draft:
    """An artifact being written."""

    folder: Path
    stage: str
    fingerprint: str

    def path(self, name: str) -> Path:
        """Where a file of the draft lies."""
        return self.folder / name

    @property
    def scratch(self) -> Path:
        """A folder beside the draft for what only a resumed run needs; it goes when the artifact is there."""
        folder = self.folder.with_suffix(".scratch")
        folder.mkdir(exist_ok=True)
        return folder

    def write_table(self, name: str, table: pa.Table) -> None:
        """Commit `name.parquet`."""
        write_parquet(self.folder / f"{name}.parquet", table)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Commit a small file."""
        write_bytes(self.folder / name, content)

    def write_shard(self, name: str, table: pa.Table) -> None:
        """Commit the next shard `name-NNNNN.parquet`; numbers go on after a restart and are never reused."""
        taken = [int(path.stem.rsplit("-", 1)[1]) for path in self.folder.glob(f"{name}-*.parquet")]
        write_parquet(self.folder / f"{name}-{max(taken, default=-1) + 1:05d}.parquet", table)

    def shards(self, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The shards committed so far, by this process or by one before it, one at a time."""
        for path in sorted(self.folder.glob(f"{name}-*.parquet")):
            yield read_parquet(path, columns)

    def clear(self, name: str) -> None:
        """Remove the shards of a table that is written anew."""
        for path in self.folder.glob(f"{name}-*.parquet"):
            path.unlink()


def _rows(path: Path) -> int | None:
    return int(pq.read_metadata(path).num_rows) if path.suffix == ".parquet" else None


def _listing(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {
            "path": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "rows": _rows(path),
            "sha256": file_digest(path),
        }
        for path in paths
    ]


@dataclass(frozen=True)
class Store:
    """All artifacts under one root folder."""

    root: Path

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Where an artifact lies, or will lie."""
        return self.root / stage / fingerprint

    def exists(self, stage: str, fingerprint: str) -> bool:
        """Whether a complete artifact is there."""
        return (self.folder(stage, fingerprint) / MANIFEST).is_file()

    def open(self, stage: str, fingerprint: str) -> Artifact:
        """A complete artifact.

        Raises:
            ArtifactMissing: there is none.
            ArtifactError: a file of the manifest is missing or has another size.
        """
        folder = self.folder(stage, fingerprint)
        if not self.exists(stage, fingerprint):
            raise ArtifactMissing(f"{folder}: no {stage} artifact; run the {stage} stage first")
        try:
            artifact = Artifact(folder, json.loads((folder / MANIFEST).read_text()))
        except ValueError as error:
            raise ArtifactError(f"{folder}/{MANIFEST}: damaged; remove {folder} and run {stage} again") from error
        for entry in artifact.manifest["files"]:
            path = folder / entry["path"]
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise ArtifactError(f"{path}: missing or of another size; remove {folder} and run {stage} again")
        return artifact

    def verify(self, stage: str, fingerprint: str) -> None:
        """Re-hash every file.

        Raises:
            ArtifactError: names the first file that differs.
        """
        artifact = self.open(stage, fingerprint)
        for entry in artifact.manifest["files"]:
            path = artifact.folder / entry["path"]
            if file_digest(path) != entry["sha256"]:
                raise ArtifactError(
                    f"{path}: content differs from the manifest; remove {artifact.folder} and run {stage} again"
                )

    @contextmanager
    def draft(self, stage: str, fingerprint: str) -> Iterator[Draft]:
        """Hold the lease on an artifact and its partial folder while the body writes it.

        Raises:
            ArtifactBusy: another live process writes it.
            RootNotWritable: the root cannot be written.
        """
        partial = self.folder(stage, fingerprint).with_suffix(".partial")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(partial.parent, os.W_OK):
                raise PermissionError(13, "permission denied")
        except OSError as error:
            raise RootNotWritable(
                f"{self.root}: cannot be written ({error.strerror}); correct root or its permissions"
            ) from error
        with lease.hold(partial.with_suffix(".lease"), f"{stage}/{fingerprint}"):
            partial.mkdir(exist_ok=True)
            for leftover in partial.glob(".*.tmp"):
                leftover.unlink()
            yield Draft(partial, stage, fingerprint)

    def commit(self, draft: Draft, manifest: Mapping[str, Any]) -> Artifact:
        """Make a draft an artifact: manifest, fsync, rename, fsync."""
        (draft.folder / MANIFEST).unlink(missing_ok=True)
        for path in draft.folder.rglob("*"):
            if path.is_file():
                sync_file(path)
        document = {
            "schema_version": MANIFEST_VERSION,
            "stage": draft.stage,
            "fingerprint": draft.fingerprint,
            **manifest,
            "files": _listing(draft.folder),
        }
        write_bytes(draft.folder / MANIFEST, orjson.dumps(document, option=orjson.OPT_INDENT_2))
        final = self.folder(draft.stage, draft.fingerprint)
        draft.folder.rename(final)
        sync_folder(final.parent)
        shutil.rmtree(draft.folder.with_suffix(".scratch"), ignore_errors=True)
        return self.open(draft.stage, draft.fingerprint)
