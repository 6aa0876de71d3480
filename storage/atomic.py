"""Atomic file writes: a reader, also after a power failure, sees either the complete new file or the old one.

A full disk or a folder without write permission is reported in one line and leaves no half-written file.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import ArtifactError, Damaged, DiskFull, RootNotWritable

SCHEMA_VERSION: Final = 1
FULL_BYTES: Final = 2 * 2**20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EEXIST)


def nothing() -> None:
    """Default for `look`: no check before a file is renamed into place."""


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turn errors of writing under `where` into one-line errors.

    Raises:
        DiskFull: no space left, or a quota exceeded.
        RootNotWritable: no permission, or the folder does not exist and cannot be created.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"{where}: no space left; free some, then run again to resume") from error
        if error.errno in _FORBIDDEN:
            raise RootNotWritable(f"{where}: cannot be written ({error.strerror}); correct root or its permissions") from error
        raise


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` when the block ends; nothing is left of it if the block fails.

    Raises:
        DiskFull, RootNotWritable: as `writing`.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    try:
        with writing(folder):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            yield aside
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def is_full(folder: Path) -> bool:
    """Whether the disk of a folder has less than `FULL_BYTES` left."""
    return shutil.disk_usage(folder).free < FULL_BYTES


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def replace_file(path: Path, write: Callable[[Path], None], look: Callable[[], None] = nothing) -> None:
    """Let `write` fill a temporary file beside `path`, fsync it, and rename it over `path` unless the final check `look` raises."""
    # Not named after the process id: two containers that share a folder may both be process 1.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with writing(path.parent):
            write(temporary)
            sync_file(temporary)
            look()
            temporary.replace(path)
    finally:
        with suppress(OSError):  # on a disk that has turned read-only; its error was raised above
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_bytes(path: Path, content: bytes, look: Callable[[], None] = nothing) -> None:
    """Write `content` to `path` atomically."""
    replace_file(path, lambda temporary: _write(temporary, content), look)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_parquet(path: Path, table: pa.Table, look: Callable[[], None] = nothing) -> None:
    """Write `table` to `path` atomically: zstd level 1, one row group, page checksums, the schema version in the metadata."""
    metadata = {**(table.schema.metadata or {}), b"mind_schema_version": str(SCHEMA_VERSION).encode()}
    versioned = table.replace_schema_metadata(metadata)
    replace_file(
        path,
        lambda temporary: pq.write_table(
            versioned,
            temporary,
            compression="zstd",
            compression_level=1,
            row_group_size=max(1, table.num_rows),
            write_page_checksum=True,
        ),
        look,
    )


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a shard with page checksums verified, so that a page altered on disk is an error, not a wrong value."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as shard:
            version = int((shard.schema_arrow.metadata or {}).get(b"mind_schema_version", 0))
            if version > SCHEMA_VERSION:
                raise ArtifactError(f"{path}: written by a newer version of MIND (schema {version}); upgrade to read it")
            yield shard
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        # An error of the operating system (too many open files, for example) has an errno and says nothing about the content.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise ArtifactError(f"{path}: cannot be read ({error}); fix the cause, then run again") from error
        raise Damaged(
            f"{path}: damaged ({' '.join(str(error).split())}); remove {path.parent} and run its stage again"
        ) from error


def is_readable(path: Path) -> bool:
    """Whether every page of a shard matches its checksum.

    Raises:
        ArtifactError: a newer version wrote it, or it cannot be read, so its pages cannot be checked.
    """
    try:
        with _opened(path) as shard:
            for _ in shard.iter_batches(batch_size=16_384):
                pass
    except Damaged:
        return False
    return True


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a shard as a table.

    Raises:
        Damaged: its content differs from what was written.
        ArtifactError: a newer version wrote it, or it cannot be read.
    """
    with _opened(path) as shard:
        return shard.read(columns=columns)


def parquet_batches(path: Path, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """A shard's rows, at most `rows` at a time.

    Raises:
        ArtifactError: as `read_parquet`.
    """
    with _opened(path) as shard:
        yield from shard.iter_batches(batch_size=rows, columns=columns)
