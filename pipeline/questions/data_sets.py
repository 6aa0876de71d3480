"""Reads the rows of a data set in the layout of a model hub: a local folder, or a repository at its pinned revision.

`datasets` knows the layout: which files belong to which subset and split, by their names or by the card. It also guesses a type for every
column of CSV and JSON files, and then 0042 is 42 and a day gets a time. So it only names the files here, and `rows.py` reads them. Formats
that have types of their own, such as Arrow, are read by `datasets`.

A hub data set is read at its pinned revision only, from files in the hub's own cache. Which files these are is recorded beside the cache
once all of them are there, so that a later run needs no network and a download that was interrupted is not taken for the whole.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pyarrow as pa

from pipeline.errors import QuestionError
from pipeline.questions.rows import ENDINGS, LocatedRow, Row, ending, file_rows, located
from pipeline.questions.sources import HubSource

TOKEN_VARIABLE: Final = "HF_TOKEN"
_UNTYPED: Final = ("csv", "json")
"""Formats in which `datasets` guesses types."""
_MEANINGLESS: Final = frozenset(
    {"name", "version", "data_dir", "data_files", "description", "features", "sep", "delimiter", "field"}
)
"""Settings of a card that decide nothing here, or that `file_rows` takes."""


class _Files(NamedTuple):
    """The files of one split, and how a card says that they are read."""

    paths: tuple[str, ...]
    separator: str | None
    field: str | None

    def rows(self, source: HubSource) -> Iterator[LocatedRow]:
        for path in self.paths:
            yield from located(_shown(source, path), file_rows(Path(path), self.separator, self.field))


def _shown(source: HubSource, path: str) -> str:
    """A file as errors name it: its path, or on the hub its place in the data set."""
    return path if source.folder is not None else f"{source.location}/{path.partition(f'/snapshots/{source.revision}/')[2]}"


def hub_rows(source: HubSource) -> Iterator[LocatedRow]:
    """The rows of a data set's split, from the hub or a folder, each with its file and its number there.

    Raises:
        QuestionError: the data set or file, the reason why it cannot be read, and the remedy.
    """
    if source.folder is not None and not source.folder.is_dir():
        raise QuestionError(f"{source.folder}: no such folder; correct the source's folder")
    recorded = _recorded(source)
    if recorded is not None:
        return _wanted(source, recorded)
    import datasets  # slow to import, and only these sources need it
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    # Their multi-line logs are replaced by one-line errors here.
    datasets.logging.set_verbosity(logging.CRITICAL)
    huggingface_hub.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    disable_progress_bars()
    builder = _builder(source)
    if source.revision is not None and builder.hash != source.revision:
        raise QuestionError(
            f"{source.location}: the hub was not reached, and the cache has revision {builder.hash}, not {source.revision}; "
            "run once with network access, or give a folder"
        )
    files = _files(source, builder)
    if files is None:
        return located(source.location, _read_by_datasets(source, builder))
    if source.folder is None:
        files = {name: part._replace(paths=_downloaded(source, part.paths)) for name, part in files.items()}
        _record(source, files)
    return _wanted(source, files)


def _guarded(source: HubSource, call: Callable[[], Any]) -> Any:
    """Calls `datasets` or `huggingface_hub`; their exceptions become one line with a remedy."""
    import datasets

    try:
        return call()
    except (OSError, ValueError, RuntimeError, StopIteration, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise QuestionError(f"{source.location}: {_explained(source, error)}") from error


def _builder(source: HubSource) -> Any:
    import datasets

    return _guarded(source, lambda: datasets.load_dataset_builder(source.location, revision=source.revision, **_subset(source)))


def _subset(source: HubSource) -> dict[str, str]:
    """In a folder without a dataset card, subsets are subfolders."""
    if source.subset is None:
        return {}
    if source.folder is not None and (source.folder / source.subset).is_dir():
        return {"data_dir": source.subset}
    return {"name": source.subset}


def _named(split: str) -> list[str]:
    """The splits in an expression such as `train[:10%]+test`; none for `all`."""
    return [] if split == "all" else [part.partition("[")[0].strip() for part in split.split("+")]


def _files(source: HubSource, builder: Any) -> dict[str, _Files] | None:
    """The files of every split that is wanted; None for formats that only `datasets` reads.

    Raises:
        QuestionError: no such split, or untyped files that cannot be read without guessing their types.
    """
    config, kind = builder.config, type(builder.config).__name__.removesuffix("Config").lower()
    if kind not in (*_UNTYPED, "parquet") or not config.data_files:
        return None
    there = {str(name): tuple(map(str, files)) for name, files in config.data_files.items()}
    for name in _named(source.split):
        if name not in there:
            raise QuestionError(f"{source.location}: has no split {name!r}; use one of {', '.join(there)}")
    wanted = {name: there[name] for name in (_named(source.split) or there)}
    odd = [path for paths in wanted.values() for path in paths if ending(path) not in ENDINGS]
    own = [
        field.name
        for field in dataclasses.fields(config)
        if field.name not in _MEANINGLESS and getattr(config, field.name) != field.default
    ]
    if (odd or own) and kind == "parquet":
        return None
    if odd or own:
        what = f"{Path(odd[0]).name}" if odd else f"the card's setting {own[0]}"
        raise QuestionError(
            f"{source.location}: {what} can be read only by guessing types, which changes values; convert the files to .parquet, "
            ".jsonl or .csv, and give them as a folder"
        )
    separator = getattr(config, "sep", ",")
    shared = (None if separator == "," else separator, getattr(config, "field", None))
    return {name: _Files(paths, *shared) for name, paths in wanted.items()}


def _wanted(source: HubSource, files: dict[str, _Files]) -> Iterator[LocatedRow]:
    """The rows of a split, or of an expression such as `train[:10%]+test`."""
    if source.split in files:
        return files[source.split].rows(source)
    if source.split == "all":
        return (row for part in files.values() for row in part.rows(source))
    import datasets

    lengths = {name: sum(1 for _ in part.rows(source)) for name, part in files.items()}
    parts = _guarded(source, lambda: datasets.ReadInstruction.from_spec(source.split).to_absolute(lengths))
    return (row for part in parts for row in islice(files[part.splitname].rows(source), part.from_, part.to))


def _read_by_datasets(source: HubSource, builder: Any) -> Iterator[Row]:
    """Hub data from the cache, which is keyed by revision; a folder's files are streamed, because its cache key can be stale."""

    def split() -> Iterable[Row]:
        if source.folder is not None:
            return cast(Iterable[Row], builder.as_streaming_dataset(split=source.split))
        builder.download_and_prepare()
        return cast(Iterable[Row], builder.as_dataset(split=source.split))

    rows, end = iter(_guarded(source, split)), object()
    while (row := _guarded(source, lambda: next(rows, end))) is not end:
        yield row


def _downloaded(source: HubSource, urls: Sequence[str]) -> tuple[str, ...]:
    """The files in the hub's cache; `urls` are `hf://datasets/NAME@REVISION/PATH`."""
    from huggingface_hub import hf_hub_download

    start = f"hf://datasets/{source.name}@{source.revision}/"
    if strange := [url for url in urls if not url.startswith(start)]:
        raise QuestionError(f"{source.location}: its card names {strange[0]}, outside the revision; give a folder")

    def path_of(url: str) -> str:
        name = url.removeprefix(start)
        return str(
            _guarded(source, lambda: hf_hub_download(str(source.name), name, repo_type="dataset", revision=source.revision))
        )

    return tuple(map(path_of, urls))


def _record_of(source: HubSource) -> Path:
    from huggingface_hub import constants

    key = json.dumps([source.name, source.revision, source.subset, source.split])
    return Path(constants.HF_HOME) / "mind" / f"{sha256(key.encode()).hexdigest()[:32]}.json"


def _record(source: HubSource, files: dict[str, _Files]) -> None:
    path = _record_of(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(files))
    aside.rename(path)


def _recorded(source: HubSource) -> dict[str, _Files] | None:
    """The downloaded files of a hub data set; None if one of them is not there."""
    if source.folder is not None or not (path := _record_of(source)).is_file():
        return None
    found = {
        name: _Files(tuple(paths), separator, field) for name, (paths, separator, field) in json.loads(path.read_text()).items()
    }
    return found if all(Path(file).is_file() for part in found.values() for file in part.paths) else None


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
