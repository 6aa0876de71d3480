"""Reads the raw rows of a Parquet, CSV or JSON file, alone or in a folder, without changing a value.

A column of a CSV or JSON file has no type, so none is guessed: a CSV cell is its text, and a JSON number its digits as written. A code
0042, a price of 1.50, an id 001, a day 2019-03-01 and an integer of any length reach the question unchanged. The one exception is a JSON
fraction of more than 15 digits that is exactly what a program writes for a binary fraction, 0.30000000000000004: its last digits are
noise, and it is cut to 15 digits, like a fraction in Parquet. Blank lines are skipped, and rows are counted without them.

Memory is bounded whatever a file says: a row has at most `ROW_BYTES`, and a `.json` file, which is read as a whole, `JSON_BYTES`.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import QuestionError

ENDINGS: Final = (".parquet", ".jsonl", ".csv", ".json", ".ndjson", ".tsv")
COMPRESSED: Final = (".gz", ".bz2", ".zst", ".lz4")
Row = dict[str, Any]
ROW_BYTES: Final = 16 * 2**20
"""Largest row: several times a rationale of 200,000 tokens with its prompt (our choice)."""
JSON_BYTES: Final = 256 * 2**20
"""Largest `.json` file (our choice)."""
BATCH_ROWS: Final = 64
"""Rows of a Parquet file in memory at a time: a file of 13 kB can repeat a text of 2 MB a thousand times."""
EXPANSION: Final = 1000
"""Largest ratio of a Parquet column's unpacked to its packed size; a page is unpacked as a whole, and real texts shrink 3 to 20 times."""
_SMALL: Final = 64 * 2**20
"""Unpacked columns of this size are never refused."""


class LocatedRow(NamedTuple):
    """A row, its file or data set, and its number there, counted from 1."""

    path: str
    number: int
    row: Row

    @property
    def where(self) -> str:
        """The place as errors name it."""
        return f"{self.path}: row {self.number}"


def ending(name: str) -> str:
    """The ending of a file name, without that of its compression."""
    return next((Path(name.removesuffix(packed)).suffix for packed in COMPRESSED if name.endswith(packed)), Path(name).suffix)


def file_rows(path: Path, separator: str | None = None, field: str | None = None) -> Iterator[Row]:
    """The rows of a file in order.

    `separator` is the one between CSV cells; by default a comma, and a tab in `.tsv`. `field` is the key of the list of rows in a `.json`
    file that is an object.

    Raises:
        QuestionError: the file, and the first row that cannot be read.
    """
    must_exist(path)
    match ending(path.name):
        case ".parquet":
            return _parquet_rows(path)
        case ".jsonl" | ".ndjson":
            return _jsonl_rows(path)
        case ".json":
            return _json_rows(path, field)
        case ".csv":
            return _csv_rows(path, separator or ",")
        case ".tsv":
            return _csv_rows(path, separator or "\t")
    raise QuestionError(f"{path}: expected a file name ending in {', '.join(ENDINGS)}; convert the file")


def located(path: str, rows: Iterable[Row]) -> Iterator[LocatedRow]:
    """Each row with its place in `path`."""
    return (LocatedRow(path, number, row) for number, row in enumerate(rows, 1))


def must_exist(path: Path) -> None:
    """Raises a `QuestionError` if the file does not exist."""
    if not path.is_file():
        raise QuestionError(f"{path}: no such file; correct the source's path")


def _opened(path: Path) -> IO[bytes]:
    if path.suffix not in COMPRESSED:
        return path.open("rb")
    return io.BufferedReader(pa.input_stream(str(path)))  # decompresses according to the ending


def _narrow(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type contain a fraction of less than 64 bits."""
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return True
    if pa.types.is_dictionary(kind):
        return _narrow(kind.value_type)
    return any(_narrow(kind.field(place).type) for place in range(kind.num_fields))


def _shortest(value: Any, kind: pa.DataType) -> Any:
    """A value whose narrow fractions have the shortest decimal that stands for them: 0.1, not 0.10000000149011612."""
    if value is None:
        return None
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return float(str(np.float16(value) if pa.types.is_float16(kind) else np.float32(value)))
    if pa.types.is_dictionary(kind):
        return _shortest(value, kind.value_type)
    if pa.types.is_struct(kind):
        return {field.name: _shortest(value[field.name], field.type) for field in kind}
    if isinstance(value, list) and kind.num_fields == 1 and not pa.types.is_map(kind):
        return [_shortest(item, kind.field(0).type) for item in value]
    return value


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    )


def _check_rows(batch: pa.RecordBatch, path: Path, before: int) -> None:
    """Refuses a row that is larger than `ROW_BYTES`."""
    row_bytes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if _is_text(column.type):
            row_bytes += pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if (row_bytes > ROW_BYTES).any():
        raise _too_large(path, before + int((row_bytes > ROW_BYTES).argmax()) + 1)


def _too_large(path: str | Path, number: int) -> QuestionError:
    return QuestionError(f"{path}: row {number}: larger than {ROW_BYTES // 2**20} MiB; shorten its texts, or leave the row out")


def _check_expansion(path: Path, metadata: pq.FileMetaData) -> None:
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            unpacked = column.total_uncompressed_size
            if unpacked > max(_SMALL, EXPANSION * column.total_compressed_size):
                raise QuestionError(
                    f"{path}: column {column.path_in_schema} unpacks to more than {EXPANSION} times its size; "
                    "correct its texts, or write the file uncompressed"
                )


def _parquet_rows(path: Path) -> Iterator[Row]:
    number = 0
    try:
        # Without a buffer, whole row groups are read at once, and many writers create only one row group.
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            _check_expansion(path, file.metadata)
            narrow = {field.name: field.type for field in file.schema_arrow if _narrow(field.type)}
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                _check_rows(batch, path, number)
                for row in batch.to_pylist():
                    number += 1
                    yield row | {name: _shortest(row[name], kind) for name, kind in narrow.items()}
    except (pa.ArrowException, OSError) as error:
        raise QuestionError(f"{path}: not a readable Parquet file; write it again") from error
    except UnicodeDecodeError as error:
        raise QuestionError(f"{path}: a text after row {number} is not UTF-8; write the file again") from error


def _fraction(text: str) -> str:
    """A JSON fraction as written, without the noise of a binary one."""
    value = float(text)
    short = f"{value:.15g}"
    return short if repr(value) == text and float(short) != value else text


def _document(text: bytes) -> Any:
    try:
        return json.loads(text, parse_int=str, parse_float=_fraction)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _is_row(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise QuestionError(f"{where}: expected a JSON object; write one object per line")
    return row


def _jsonl_rows(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with _opened(path) as stream:
            for line in iter(partial(stream.readline, ROW_BYTES + 1), b""):
                if not line.strip():
                    continue
                number += 1
                if len(line) > ROW_BYTES:
                    raise _too_large(path, number)
                try:
                    row = _document(line)
                except ValueError as error:
                    raise QuestionError(f"{path}: row {number}: not valid JSON in UTF-8; write one object per line") from error
                yield _is_row(row, f"{path}: row {number}")
    except (pa.ArrowException, OSError) as error:
        raise QuestionError(f"{path}: cannot be read after row {number} ({error}); write the file again") from error


def _json_rows(path: Path, field: str | None) -> Iterator[Row]:
    """The rows of a list of objects, of one object, or of one object per line; the file is held in memory."""
    try:
        with _opened(path) as stream:
            content = stream.read(JSON_BYTES + 1)
    except (pa.ArrowException, OSError) as error:
        raise QuestionError(f"{path}: cannot be read ({error}); write the file again") from error
    if len(content) > JSON_BYTES:
        raise QuestionError(f"{path}: larger than {JSON_BYTES // 2**20} MiB; write one object per line into a .jsonl file")
    try:
        found = _document(content)
    except ValueError:
        yield from _jsonl_rows(path)
        return
    if field is not None:
        if not isinstance(found, dict) or not isinstance(found.get(field), list):
            raise QuestionError(f"{path}: has no list {field!r}, which the folder's card names; correct one of them")
        found = found[field]
    for number, row in enumerate(found if isinstance(found, list) else [found], 1):
        yield _is_row(row, f"{path}: row {number}")


def _bounded(path: Path, lines: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a CSV file."""
    for number, line in enumerate(iter(partial(lines.readline, ROW_BYTES + 1), "")):
        if len(line) > ROW_BYTES:
            raise QuestionError(f"{path}: line {number + 1}: larger than {ROW_BYTES // 2**20} MiB; shorten its texts")
        yield line


def _csv_rows(path: Path, separator: str) -> Iterator[Row]:
    number = 0
    csv.field_size_limit(ROW_BYTES)  # by default a longer cell than 128 KiB counts as an error
    try:
        with _opened(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as lines:
            reader = csv.DictReader(_bounded(path, lines), strict=True, delimiter=separator)
            names = reader.fieldnames or ()
            for name, times in Counter(names).items():
                if times > 1:
                    raise QuestionError(f"{path}: two columns are called {name!r}; rename one of them")
            for row in reader:
                number += 1
                if None in row or None in row.values():
                    raise QuestionError(f"{path}: row {number}: number of fields differs from the header; quote or add commas")
                yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise QuestionError(f"{path}: row {number + 1}: not valid CSV in UTF-8 ({error}); write the file again") from error
    except (pa.ArrowException, OSError) as error:
        raise QuestionError(f"{path}: cannot be read after row {number} ({error}); write the file again") from error
