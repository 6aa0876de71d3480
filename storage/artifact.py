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

from storage.atomic import is_readable, parquet_batches, read_parquet, write_bytes, write_parquet, writing
from storage.backend import ObjectStore
from storage.documents import File, Manifest
from storage.errors import ArtifactError, Damaged
from storage.fingerprint import file_digest
from storage.lease import Lease
from storage.mirror import Mirror

MANIFEST: Final = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A complete artifact. `folder` is its folder on this machine."""

    folder: Path
    manifest: Manifest
    remote: ObjectStore | None = None

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
    def root(self) -> Path:
        """The local root of the store that this artifact was opened from."""
        return self.folder.parents[1]

    @property
    def summary(self) -> dict[str, Any]:
        return dict(self.manifest["summary"])

    def path(self, name: str) -> Path:
        """The local path of a file, or of a folder with all of its files; remote files are downloaded first.

        Raises:
            ArtifactError: a downloaded file does not match the manifest.
        """
        if self.remote is not None:
            for entry in self.manifest["files"]:
                if entry["path"] == name or entry["path"].startswith(f"{name}/"):
                    self._fetch(self.remote, entry)
        return self.folder / name

    def _fetch(self, remote: ObjectStore, entry: File) -> None:
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
        """All rows of a table at once; for small tables, or a few narrow columns."""
        return pa.concat_tables([read_parquet(shard, columns) for shard in self.files(name)])

    def batches(self, name: str, columns: list[str] | None = None, rows: int = 4096) -> Iterator[pa.RecordBatch]:
        """The rows of a table in order, at most `rows` at a time, so that memory use does not grow with the table."""
        for shard in self.files(name):
            yield from parquet_batches(shard, columns, rows)


def table_files(paths: list[str], name: str) -> list[str]:
    """The files of the table `name` among `paths`, in order."""
    shards = re.compile(rf"{re.escape(name)}(-\d+)?\.parquet")
    return in_order(path for path in paths if shards.fullmatch(path))


def in_order(shards: Iterable[str]) -> list[str]:
    """Shards of one table by number; numbers from 100,000 on have more digits."""
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
        """The path of a file of the draft."""
        return self.folder / name

    @property
    def scratch(self) -> Path:
        """A folder beside the draft for files that only a resumed run needs; removed when the artifact is complete."""
        folder = self.folder.with_suffix(".scratch")
        folder.mkdir(exist_ok=True)
        return folder

    def check(self) -> None:
        """Refuse to write if another process has taken over the lease, including one that has finished and removed its lease.

        Raises:
            LeaseLost: another process continues the work or has finished it.
        """
        self.lease.check()
        if self.lease.backend.has(f"{self.name}/{MANIFEST}"):
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
        """Commit the next shard `name-NNNNN.parquet`; numbering continues after a restart, and numbers are never reused."""
        if name not in self._next:
            taken = [int(path.stem.rsplit("-", 1)[1]) for path in self._shard_paths(name)]
            self._next[name] = max(taken, default=-1) + 1
        shard = f"{name}-{self._next[name]:05d}.parquet"
        self._next[name] += 1
        write_parquet(self.folder / shard, table, self.check)
        self._committed(shard, new=True)

    @property
    def digests(self) -> Path:
        """A file beside the draft with a line per committed file: SHA-256 and name. A kill may have truncated or omitted the last line."""
        return self.folder.with_suffix(".digests")

    def remember(self, name: str) -> None:
        """Record the current digest of a file."""
        with writing(self.folder), self.digests.open("a") as lines:
            lines.write(f"{file_digest(self.folder / name)} {name}\n")

    def _committed(self, name: str, new: bool = False) -> None:
        self.remember(name)
        if self.mirror is not None:
            self.mirror.send(name, new)

    def _shard_paths(self, name: str) -> list[Path]:
        return [self.folder / path for path in table_files([path.name for path in self.folder.glob(f"{name}-*.parquet")], name)]

    def shards(self, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The shards committed so far, by this process or an earlier one, one at a time."""
        for path in self._shard_paths(name):
            yield read_parquet(path, columns)

    def drop_damaged(self) -> None:
        """Remove tables that were damaged on disk after an earlier process wrote them.

        Their rows are recomputed; under a remote root, the tables are downloaded again.
        """
        lines = self.digests.read_text(errors="replace").splitlines() if self.digests.exists() else []
        known = {line[65:]: line[:64] for line in lines}
        for path in sorted(self.folder.glob("*.parquet")):
            whole = file_digest(path) == known[path.name] if path.name in known else is_readable(path)
            if not whole:
                print(f"{self.stage}: {path.name}: damaged on disk; its rows will be recomputed", flush=True)
                path.unlink()

    def take_up(self) -> None:
        """Resume from the committed files."""
        self.drop_damaged()
        if self.mirror is not None:
            for name in self.mirror.take_up(self.lease.holder.number):
                self.remember(name)
            for path in [path for path in sorted(self.folder.glob("*.parquet")) if not is_readable(path)]:
                print(f"{self.stage}: {path.name}: damaged in transfer; its rows will be recomputed", flush=True)
                self._remove(path)

    def clear(self, name: str) -> None:
        """Remove the shards of a table that will be rewritten."""
        for path in self._shard_paths(name):
            self._remove(path)
        self._next.pop(name, None)

    def _remove(self, path: Path) -> None:
        self.check()
        path.unlink()
        if self.mirror is not None:
            self.mirror.remove(path.name)
