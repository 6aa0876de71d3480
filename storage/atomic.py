"""Writing so that a reader, or a machine that loses power, sees the whole new file or the old one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION: Final = b"1"


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


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, fsync it, and rename it over `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """`content` at `path`, atomically."""
    replace_file(path, lambda temporary: _write(temporary, content))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_parquet(path: Path, table: pa.Table) -> None:
    """`table` at `path`, atomically: zstd level 1, one row group, page checksums, the schema version in the metadata."""
    metadata = {**(table.schema.metadata or {}), b"mind_schema_version": SCHEMA_VERSION}
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
    )


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A shard as a table; a page that was altered on disk is an error, not a wrong value."""
    return pq.read_table(path, columns=columns, page_checksum_verification=True)


def parquet_batches(path: Path, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """A shard's rows, at most `rows` at a time."""
    with pq.ParquetFile(path, page_checksum_verification=True) as shard:
        yield from shard.iter_batches(batch_size=rows, columns=columns)
