from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import atomic
from storage.atomic import is_readable, new_folder, parquet_batches, read_parquet, replace_file, write_bytes, write_parquet
from storage.errors import ArtifactError, Damaged, DiskFull, RootNotWritable


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_second_write_replaces_the_first_completely(tmp_path: Path, first: bytes, second: bytes) -> None:
    path = tmp_path / "file"
    write_bytes(path, first)
    write_bytes(path, second)
    assert path.read_bytes() == second
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail_half_way(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fail_half_way)
    assert {item.name: item.read_text() for item in tmp_path.iterdir()} == {"file": "old"}


def test_a_reader_never_sees_a_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def look_while_writing(temporary: Path) -> None:
        temporary.write_text("new")
        assert path.read_text() == "old"

    replace_file(path, look_while_writing)
    assert path.read_text() == "new"


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_a_table_is_one_zstd_row_group_with_its_schema_version(tmp_path: Path, rows: int) -> None:
    table = pa.table({"number": pa.array(range(rows), pa.int64())}).replace_schema_metadata({"mine": "kept"})
    write_parquet(tmp_path / "t.parquet", table)
    metadata = pq.read_metadata(tmp_path / "t.parquet")
    assert metadata.num_rows == rows
    assert metadata.num_row_groups <= 1
    assert metadata.metadata[b"mind_schema_version"] == b"1"
    assert metadata.metadata[b"mine"] == b"kept"
    assert pq.read_table(tmp_path / "t.parquet").equals(table)
    if rows:
        assert metadata.row_group(0).column(0).compression == "ZSTD"


SMALL = pa.table({"id": ["a", "b"], "number": pa.array([1, 2], pa.int64())})


@given(st.data())
def test_a_truncated_shard_is_damaged(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, SMALL)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(Damaged, match=r"t\.parquet: damaged .*; remove .* and run its stage again"):
        read_parquet(path)
    assert not is_readable(path)


@given(st.data())
def test_a_flipped_bit_gives_no_wrong_value_and_no_foreign_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, SMALL)
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        found = read_parquet(path)
    except ArtifactError:
        return
    # The footer has no checksum: names and types may differ, which file digests detect.
    if found.schema.equals(SMALL.schema):
        assert found.to_pydict() == SMALL.slice(0, found.num_rows).to_pydict()


def test_a_shard_of_a_newer_version_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "SCHEMA_VERSION", 2)
        write_parquet(path, SMALL)
    for read in (read_parquet, is_readable, lambda path: list(parquet_batches(path, None, 1))):
        with pytest.raises(
            ArtifactError, match=r"written by a newer version of MIND \(schema 2\); upgrade to read it"
        ) as caught:
            read(path)
        assert not isinstance(caught.value, Damaged)


def test_an_unreadable_shard_is_not_reported_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, SMALL)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(ArtifactError, match="cannot be read") as caught:
            read_parquet(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not isinstance(caught.value, Damaged)


def test_batches_keep_the_row_order_and_the_maximum_size(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, pa.table({"a": range(10), "b": range(10)}))
    batches = list(parquet_batches(path, ["b"], 4))
    assert [batch.num_rows for batch in batches] == [4, 4, 2]
    assert pa.Table.from_batches(batches).to_pydict() == {"b": list(range(10))}


def test_a_failing_final_check_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_text("old")

    def refuse() -> None:
        assert len(list(tmp_path.iterdir())) == 2, "the look comes after all has been written"
        raise ArtifactError("not yours any more")

    with pytest.raises(ArtifactError, match="not yours"):
        write_parquet(path, SMALL, refuse)
    assert {item.name: item.read_text() for item in tmp_path.iterdir()} == {"t.parquet": "old"}


def test_two_writers_of_one_file_use_different_temporary_files(tmp_path: Path) -> None:
    """Two containers that share a folder may both run as process 1: their temporary files need different names."""
    path, seen = tmp_path / "file", list[Path]()

    def write(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_text("x")
        if len(seen) == 1:
            replace_file(path, write)

    replace_file(path, write)
    assert len(set(seen)) == 2


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, DiskFull, "no space left; free some, then run again to resume"),
        (errno.EDQUOT, DiskFull, "no space left"),
        (errno.EACCES, RootNotWritable, "cannot be written .*; correct root or its permissions"),
        (errno.EROFS, RootNotWritable, "cannot be written"),
    ],
)
def test_a_disk_error_becomes_one_line_with_a_remedy(tmp_path: Path, number: int, kind: type[Exception], message: str) -> None:
    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(kind, match=f"{tmp_path}: {message}"):
        replace_file(tmp_path / "file", fail)
    assert not list(tmp_path.iterdir())


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out") as aside:
        (aside / "file").write_text("content")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "file").read_text() == "content"


def test_of_a_new_folder_that_fails_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as aside:
        (aside / "file").write_text("content")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
