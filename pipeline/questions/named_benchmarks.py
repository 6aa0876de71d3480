"""Well-known benchmarks by name: `named_benchmarks.yaml` gives each one's location, column mapping and licence.

A name stands for one or several hub data sets (tasks) at pinned revisions. It is resolved while the configuration is loaded, and the result
becomes part of the configuration. A fingerprint therefore covers revisions and columns, and a corrected entry invalidates the questions
artifact.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.questions.sources import FileSource, HubSource, MiniatureSource
from pipeline.schema.bounded_yaml import parse
from pipeline.schema.fields import FilePath, Frozen, identity, runtime

HERE: Final = Path(__file__).parent


class Benchmark(Frozen):
    """One entry of `named_benchmarks.yaml`.

    `source` has the fields of a `HubSource`; `tasks` has each task's differences from it. A task's subset has the task's name unless
    another is given. `splits` maps the split names used here to the hub's, because some test sets on the hub are called train.
    `evaluation_only` gives the reason. `also_in` maps another benchmark to a file with digests of the wordings that both contain.
    """

    about: str
    source: dict[str, Any]
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    splits: dict[str, str] = Field(min_length=1)
    licence: str
    citation: str
    evaluation_only: str | None = None
    also_in: dict[str, str] = Field(default_factory=dict)

    def parts(self, name: str, split: str) -> dict[str, HubSource]:
        """The hub sources of a split, by task; an entry without tasks has one part, called `name`."""
        tasks = {task: {"subset": task} | self.source | own for task, own in self.tasks.items()} or {name: self.source}
        return {task: HubSource.model_validate({**fields, "split": self.splits[split]}) for task, fields in tasks.items()}

    @property
    def apart(self) -> bool:
        """Whether tasks are in separate repositories."""
        return any("name" in own for own in self.tasks.values())


@cache
def entries() -> Mapping[str, Benchmark]:
    """All named benchmarks, in file order."""
    found = parse((HERE / "named_benchmarks.yaml").read_text())
    return {name: Benchmark.model_validate(entry) for name, entry in found.items()}


def _one_of(given: Any, known: Mapping[str, Any], what: str) -> str:
    if str(given) in known:
        return str(given)
    near = difflib.get_close_matches(str(given), known, n=1)
    raise ValueError(
        f"{given!r} is not {what}; " + (f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}")
    )


class NamedSource(Frozen):
    """A benchmark of `named_benchmarks.yaml`; `mind sources` lists them."""

    kind: Literal["named"] = identity("named")
    name: str = identity()
    """Name of the benchmark."""
    split: str = identity()
    """Split to read; optional if the benchmark has only one."""
    tasks: tuple[str, ...] | None = identity(None, min_length=1)
    """Read only these tasks of the benchmark."""
    folder: FilePath | None = runtime(None)
    """Local copy of the hub repository, in place of the hub, or of its files alone (`test.parquet`); for a benchmark of several
    repositories, a folder with a copy of each."""
    max_characters: int | None = identity(None, ge=1)
    """Leave out longer questions; they are counted."""
    sample: int | None = identity(None, ge=1)
    """Take this many of the remaining questions, chosen by a digest of their ids."""
    despite_evaluation_only: bool = runtime(False)
    """Train on a set whose authors ask not to; report it with the results."""
    parts: dict[str, HubSource] = identity()
    """The hub data sets that the name stands for, by task; filled in while the configuration is loaded."""

    @model_validator(mode="before")
    @classmethod
    def _stand_for(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "parts" in given or "name" not in given:
            return given
        name = _one_of(given["name"], entries(), "a known benchmark")
        entry = entries()[name]
        split = given.get("split") or (next(iter(entry.splits)) if len(entry.splits) == 1 else None)
        if split is None:
            raise ValueError(f"{name} has the splits {' and '.join(entry.splits)}; set split to one of them")
        try:
            parts = entry.parts(name, _one_of(split, entry.splits, f"a split of {name} with answers"))
        except ValidationError as error:
            raise ValueError(f"the entry of {name} in named.yaml is invalid: {error.errors()[0]['msg']}") from error
        tasks = given.get("tasks")
        if isinstance(tasks, list):
            parts = {_one_of(task, parts, f"a task of {name}"): parts[task] for task in tasks}
        return {**given, "split": split, "parts": parts}

    def readable(self) -> dict[str, HubSource]:
        """The parts as they are loaded: from `folder` if it is set."""
        if self.folder is None:
            return self.parts
        apart = self.name in entries() and entries()[self.name].apart
        return {
            task: self._in_folder(part, self.folder / Path(str(part.name)).name if apart else self.folder)
            for task, part in self.parts.items()
        }

    def _in_folder(self, part: HubSource, folder: Path) -> HubSource:
        """A part in a local copy, which may be a folder of files alone: without the hub's card and subfolders for its only subset."""
        plain = len(self.parts) == 1 and not (folder / "README.md").is_file() and not (folder / str(part.subset)).is_dir()
        found = part.model_dump(exclude={"name", "revision", "folder"})
        return HubSource(folder=folder, **(found | {"subset": None} if plain else found))


Source = Annotated[MiniatureSource | FileSource | HubSource | NamedSource, Field(discriminator="kind")]


def _on_hub(name: str) -> list[Benchmark]:
    """The benchmarks that use a hub data set, ignoring case."""
    known = ((part.get("name"), entry) for entry in entries().values() for part in (entry.source, *entry.tasks.values()))
    return [entry for hub, entry in known if hub is not None and hub.casefold() == name.casefold()]


def licence_of(source: Mapping[str, Any]) -> str | None:
    """The licence of a source's questions, from its configuration; None if unknown."""
    if source["kind"] == "named":
        return entries()[source["name"]].licence if source["name"] in entries() else None
    found = _on_hub(source["name"]) if source["kind"] == "hub" and source.get("name") else []
    return found[0].licence if found else None


def _is_test(split: str, entry: Benchmark) -> bool:
    """Whether a hub split expression, such as "train[:10%]+test", includes a benchmark's test split."""
    parts = {part.partition("[")[0].strip() for part in split.split("+")}
    return "test" in entry.splits and not parts.isdisjoint({entry.splits["test"], "all"})


def evaluation_only(source: Source) -> str | None:
    """The reason not to train on a source, if any; also recognises a benchmark given by its hub name."""
    match source:
        case NamedSource() if source.name in entries():
            return entries()[source.name].evaluation_only or ("it is the test split" if source.split == "test" else None)
        case HubSource(name=str(name)):
            for entry in _on_hub(name):
                if reason := entry.evaluation_only or ("it is the test split" if _is_test(source.split, entry) else None):
                    return reason
    return None


@cache
def also_in(name: str) -> Mapping[str, str]:
    """Known overlap with other benchmarks: wording digests (12 hex digits) -> the other benchmark's name."""
    shared = entries()[name].also_in if name in entries() else {}
    return {line: other for other, file in shared.items() for line in (HERE / file).read_text().split()}
