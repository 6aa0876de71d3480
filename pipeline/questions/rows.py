"""Reads raw rows of a Parquet, JSONL or CSV file, or of a data set through `datasets`.

A hub data set is read at its pinned revision only. Without a network, `datasets` falls back to any revision in its cache, and for a folder
with a dataset card its cache may hold the rows of another folder. The fallback is an error here, and the cache is not used for folders:
otherwise a fingerprint would describe questions that were never used.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import QuestionError
from pipeline.questions.sources import HubSource

ENDINGS: Final = (".parquet", ".jsonl", ".csv")
TOKEN_VARIABLE: Final = "HF_TOKEN"
Row = dict[str, Any]


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a file in order.

    Raises:
        QuestionError: the file, and the first row that cannot be read.
    """
    must_exist(path)
    match path.suffix:
        case ".parquet":
            return _parquet_rows(path)
        case ".jsonl":
            return _jsonl_rows(path)
        case ".csv":
            return _csv_rows(path)
    raise QuestionError(f"{path}: expected a file name ending in {', '.join(ENDINGS)}; convert the file")


def must_exist(path: Path) -> None:
    """Raises a `QuestionError` if the file does not exist."""
    if not path.is_file():
        raise QuestionError(f"{path}: no such file; correct the source's path")


def _parquet_rows(path: Path) -> Iterator[Row]:
    number = 0
    try:
        # Without a buffer, whole row groups are read at once, and many writers create only one row group.
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield row
    except pa.ArrowException as error:
        raise QuestionError(f"{path}: not a readable Parquet file; write it again") from error
    except UnicodeDecodeError as error:
        raise QuestionError(f"{path}: a text after row {number} is not UTF-8; write the file again") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise QuestionError(f"{path}: row {number}: not valid JSON in UTF-8; write one object per line") from error
            if not isinstance(row, dict):
                raise QuestionError(f"{path}: row {number}: expected a JSON object; write one object per line")
            yield row


def _csv_rows(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for row in csv.DictReader(lines, strict=True):
                number += 1
                if None in row or None in row.values():
                    raise QuestionError(f"{path}: row {number}: number of fields differs from the header; quote or add commas")
                yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise QuestionError(f"{path}: row {number + 1}: not valid CSV in UTF-8 ({error}); write the file again") from error


def hub_rows(source: HubSource) -> Iterator[Row]:
    """The rows of a data set's split, from the hub or a folder.

    Raises:
        QuestionError: the data set, the reason why it cannot be loaded, and the remedy.
    """
    import datasets  # slow to import, and only these sources need it
    import huggingface_hub

    # Their multi-line logs are replaced by one-line errors here.
    datasets.logging.set_verbosity(logging.CRITICAL)
    huggingface_hub.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    if source.folder is not None and not source.folder.is_dir():
        raise QuestionError(f"{source.folder}: no such folder; correct the source's folder")
    try:
        builder = datasets.load_dataset_builder(source.location, revision=source.revision, **_subset(source))
        if source.revision is None or builder.hash == source.revision:
            yield from _split(source, builder)
            return
    except (OSError, ValueError, RuntimeError, StopIteration, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise QuestionError(f"{source.location}: {_explained(source, error)}") from error
    raise QuestionError(
        f"{source.location}: the hub was not reached, and the cache has revision {builder.hash}, not {source.revision}; "
        "run once with network access, or give a folder"
    )


def _split(source: HubSource, builder: Any) -> Iterable[Row]:
    """Hub data from the cache, which is keyed by revision; a folder's files are streamed, because its cache key can be stale."""
    if hasattr(builder.config, "keep_default_na"):
        builder.config.keep_default_na = False  # in CSV, "None" and "NA" are answers
    if source.folder is not None:
        return cast(Iterable[Row], builder.as_streaming_dataset(split=source.split))
    builder.download_and_prepare()
    return cast(Iterable[Row], builder.as_dataset(split=source.split))


def _subset(source: HubSource) -> dict[str, str]:
    """In a folder without a dataset card, subsets are subfolders."""
    if source.subset is None:
        return {}
    if source.folder is not None and (source.folder / source.subset).is_dir():
        return {"data_dir": source.subset}
    return {"name": source.subset}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explained(source: HubSource, error: BaseException) -> str:
    """The reason and the remedy, in one line."""
    reasons = [(str(one).strip().splitlines() or [type(one).__name__])[0] for one in _chain(error)]
    said = reasons[0]
    if any("is a gated dataset" in reason for reason in reasons) or any(
        type(one).__name__ == "GatedRepoError" for one in _chain(error)
    ):
        return f"is gated ({said}); accept its terms on the hub, and set {TOKEN_VARIABLE} to a token of that account, or give a folder"
    if isinstance(error, ConnectionError):
        return f"{said}; check the network and HF_HUB_OFFLINE, or give a folder"
    if source.folder is not None:
        return (
            f"cannot be loaded ({reasons[-1] if isinstance(error, RuntimeError) else said}); check the files, subset and split"
        )
    return f"cannot be loaded ({said}); check name, subset, split and revision; a private data set needs a token in {TOKEN_VARIABLE}"
