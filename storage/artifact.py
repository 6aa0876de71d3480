"""Artifacts and drafts. An artifact is a folder with a manifest, complete or absent; a draft is one that is being written.

An `Artifact` never changes. Under a remote root its files are downloaded on first use and checked against the manifest. A `Draft` is a
local folder, `<fingerprint>.partial`. Each of its shards is committed separately and survives a kill; under a remote root it is also
uploaded at once, so that another machine can resume.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipeline.errors import ArtifactError, Damaged
from storage.atomic import is_readable, parquet_batches, read_parquet, write_bytes, write_parquet, writing
from storage.fingerprint import file_digest
from storage.lease import Lease
from storage.mirror import Mirror
from storage.place import Bucket

MANIFEST: Final = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A complete artifact. `folder` is where its files lie on this machine."""

    folder: Path
    manifest: dict[str, Any]
    remote: Bucket | None = None

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def stage(self) -> str:
        return str(self.manifest["stage"])

    @property
    def name(self) -> str:
        """`stage/fingerprint`."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def summary(self) -> dict[str, Any]:
        return dict(self.manifest["summary"])

    def path(self, name: str) -> Path:
        """A file of the artifact, or a folder in it with everything that it holds.

        Raises:
            ArtifactError: a file that came from the remote root is not what the manifest says.
        """
        if self.remote is not None:
            for entry in self.manifest["files"]:
                if entry["path"] == name or entry["path"].startswith(f"{name}/"):
                    self._fetch(self.remote, entry)
        return self.folder / name

    def _fetch(self, remote: Bucket, entry: dict[str, Any]) -> None:
        path = self.folder / entry["path"]
        if path.is_file() and path.stat().st_size == entry["bytes"]:
            return
        key, remedy = f"{self.name}/{entry['path']}", f"remove {remote.url}/{self.name} and run {self.stage} again"
        try:
            remote.download(key, path, entry["sha256"])
        except FileNotFoundError as error:
            raise ArtifactError(f"{remote.url}/{key}: missing; {remedy}") from error
        except Damaged as error:
            raise Damaged(f"{error}; {remedy}") from error

    def files(self, name: str) -> list[Path]:
        """`name.parquet`, or every shard `name-*.parquet` in order."""
        shards = table_files([entry["path"] for entry in self.manifest["files"]], name)
        if not shards:
            raise ArtifactError(f"{self.folder}: has no table {name!r}; remove the folder and run {self.stage} again")
        return [self.path(shard) for shard in shards]

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """All rows of a table at once: for tables that are known to be small, or a few narrow columns."""
        return pa.concat_tables([read_parquet(shard, columns) for shard in self.files(name)])

    def batches(self, name: str, columns: list[str] | None = None, rows: int = 4096) -> Iterator[pa.RecordBatch]:
        """The rows of a table in order, at most `rows` at a time, so that memory does not grow with the table."""
        for shard in self.files(name):
            yield from parquet_batches(shard, columns, rows)


def table_files(paths: list[str], name: str) -> list[str]:
    """Which of some files make up the table `name`, in order."""
    shards = re.compile(rf"{re.escape(name)}(-\d+)?\.parquet")
    return in_order(path for path in paths if shards.fullmatch(path))


def in_order(shards: Iterable[str]) -> list[str]:
    """Shards of one table by number; from 100,000 on their names are longer."""
    return sorted(shards, key=lambda shard: (len(shard), shard))


@dataclass(frozen=True)
class Draft:
    """An artifact being written."""

    folder: Path
    stage: str
    fingerprint: str
    lease: Lease
    mirror: Mirror | None = None
    _next: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """`stage/fingerprint`."""
        return f"{self.stage}/{self.fingerprint}"

    def path(self, name: str) -> Path:
        """Where a file of the draft lies."""
        return self.folder / name

    @property
    def scratch(self) -> Path:
        """A folder beside the draft for what only a resumed run needs; it goes when the artifact is there."""
        folder = self.folder.with_suffix(".scratch")
        folder.mkdir(exist_ok=True)
        return folder

    def check(self) -> None:
        """Refuse to write on behalf of a lease that is another's now, also where that one has finished and left no lease.

        Raises:
            LeaseLost: the work goes on elsewhere, or is done.
        """
        self.lease.check()
        if self.lease.place.has(f"{self.name}/{MANIFEST}"):
            raise self.lease.lose()

    def write_table(self, name: str, table: pa.Table) -> None:
        """Commit `name.parquet`."""
        write_parquet(self.folder / f"{name}.parquet", table, self.check)
        self._committed(f"{name}.parquet")

    def write_bytes(self, name: str, content: bytes) -> None:
        """Commit a small file."""
        write_bytes(self.folder / name, content, self.check)
        self._committed(name)

    def write_shard(self, name: str, table: pa.Table) -> None:
        """Commit the next shard `name-NNNNN.parquet`; numbers go on after a restart and are never reused."""
        if name not in self._next:
            taken = [int(path.stem.rsplit("-", 1)[1]) for path in self._shard_paths(name)]
            self._next[name] = max(taken, default=-1) + 1
        shard = f"{name}-{self._next[name]:05d}.parquet"
        self._next[name] += 1
        write_parquet(self.folder / shard, table, self.check)
        self._committed(shard, new=True)

    @property
    def digests(self) -> Path:
        """Beside the draft, a line per committed file: its name and SHA-256. A kill may have torn or left out the last."""
        return self.folder.with_suffix(".digests")

    def remember(self, name: str) -> None:
        """Note what a file holds now."""
        with writing(self.folder), self.digests.open("a") as lines:
            lines.write(f"{file_digest(self.folder / name)} {name}\n")

    def _committed(self, name: str, new: bool = False) -> None:
        self.remember(name)
        if self.mirror is not None:
            self.mirror.send(name, new)

    def _shard_paths(self, name: str) -> list[Path]:
        return [self.folder / path for path in table_files([path.name for path in self.folder.glob(f"{name}-*.parquet")], name)]

    def shards(self, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The shards committed so far, by this process or by one before it, one at a time."""
        for path in self._shard_paths(name):
            yield read_parquet(path, columns)

    def drop_damaged(self) -> None:
        """Remove the tables that the disk has damaged since a process before this one wrote them.

        Their rows are made again; under a remote root, fetched again.
        """
        lines = self.digests.read_text(errors="replace").splitlines() if self.digests.exists() else []
        known = {line[65:]: line[:64] for line in lines}
        for path in sorted(self.folder.glob("*.parquet")):
            whole = file_digest(path) == known[path.name] if path.name in known else is_readable(path)
            if not whole:
                print(f"{self.stage}: {path.name}: damaged on disk; its rows will be recomputed", flush=True)
                path.unlink()

    def take_up(self) -> None:
        """Go on from what is there."""
        self.drop_damaged()
        if self.mirror is not None:
            for name in self.mirror.take_up(self.lease.holder.number):
                self.remember(name)
            for path in [path for path in sorted(self.folder.glob("*.parquet")) if not is_readable(path)]:
                print(f"{self.stage}: {path.name}: damaged in transfer; its rows will be recomputed", flush=True)
                self._remove(path)

    def clear(self, name: str) -> None:
        """Remove the shards of a table that is written anew."""
        for path in self._shard_paths(name):
            self._remove(path)
        self._next.pop(name, None)

    def _remove(self, path: Path) -> None:
        self.check()
        path.unlink()
        if self.mirror is not None:
            self.mirror.remove(path.name)
