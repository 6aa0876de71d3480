from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.atomic import replace_file, write_bytes, write_parquet


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_the_second_write_replaces_the_first_whole(tmp_path: Path, first: bytes, second: bytes) -> None:
    path = tmp_path / "file"
    write_bytes(path, first)
    write_bytes(path, second)
    assert path.read_bytes() == second
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail_half_way(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fail_half_way)
    assert {item.name: item.read_text() for item in tmp_path.iterdir()} == {"file": "old"}


def test_a_reader_never_sees_the_file_half_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def look_while_writing(temporary: Path) -> None:
        temporary.write_text("new")
        assert path.read_text() == "old"

    replace_file(path, look_while_writing)
    assert path.read_text() == "new"


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_a_table_is_one_zstd_row_group_that_says_its_schema_version(tmp_path: Path, rows: int) -> None:
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
