"""The catalogue: runs, and pointers such as `latest` and `promoted`, as small JSON documents.

`runs/<name>.json` holds {stage: fingerprint}, the configuration and the status of a run, and the artifacts of earlier runs of that name for
comparison; the latter are not protected from garbage collection. A pointer, `pointers/<name>.json`, holds a run's name and its artifacts at
the time it was set, so running again under the same name does not move it. Every run sets `latest`; a decision sets `promoted`. A pointer's
history keeps its earlier versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson

from storage.backend import Backend
from storage.documents import POINTERS, RUN_NAME, Pointer, Run, Stages, Target, checked_name, parse_pointer, parse_run
from storage.errors import ArtifactError, ArtifactMissing, BadName

HISTORY: Final = 20
EARLIER: Final = 5


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _run_key(name: str) -> str:
    return f"runs/{checked_name(name)}.json"


class Runs(NamedTuple):
    """Runs, newest first, and a line for each document that is damaged."""

    runs: list[Run]
    damaged: list[str]


def record_run(backend: Backend, name: str, stages: Mapping[str, str], config: Mapping[str, Any], status: str) -> None:
    """Write a run and point `latest` to it."""
    write_run(backend, name, stages, config, status)
    point(backend, "latest", name, stages)


def write_run(backend: Backend, name: str, stages: Mapping[str, str], config: Mapping[str, Any], status: str) -> None:
    """Write a run."""
    before = read_run(backend, name)
    earlier = [] if before is None else before["earlier"]
    if before is not None and before["stages"] != dict(stages):
        earlier = [before["stages"], *earlier][:EARLIER]
    backend.write(_run_key(name), _run_document(name, stages, config, status, earlier))


def _run_document(
    name: str, stages: Mapping[str, str], config: Mapping[str, Any], status: str, earlier: Sequence[Mapping[str, str]]
) -> bytes:
    document = {
        "name": name,
        "status": status,
        "updated": _now(),
        "stages": dict(stages),
        "earlier": list(earlier),
        "config": dict(config),
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def add_run(backend: Backend, name: str, stages: Mapping[str, str], status: str) -> bool:
    """Write a run under a name that is free; returns whether it is new. Of several processes only one can take a name.

    Raises:
        BadName: a run with other artifacts has the name; replacing it would leave them to garbage collection.
    """
    if backend.create(_run_key(name), _run_document(name, stages, {}, status, [])):
        return True
    before = read_run(backend, name)
    if before is not None and before["stages"] == dict(stages):
        return False
    raise BadName(f"{name}: a run of this name exists; choose another with --name, or `mind forget {name}` first")


def forget_run(backend: Backend, name: str) -> None:
    """Remove a run from the catalogue, also a damaged one; artifacts that only it reached become garbage.

    Raises:
        ArtifactMissing: no such run exists.
    """
    if not backend.has(_run_key(name)):
        raise ArtifactMissing(f"{name}: no such run; `mind status` lists them")
    backend.remove(_run_key(name))
    latest = _latest(backend)
    if latest is not None and latest["run"] == name:
        backend.remove("pointers/latest.json")


def read_run(backend: Backend, name: str) -> Run | None:
    """A run by its name, or None.

    Raises:
        ArtifactError: its document is damaged.
    """
    content = backend.read(_run_key(name))
    return None if content is None else parse_run(content, name)


def run_names(backend: Backend) -> list[str]:
    """Names of all runs, most recently written first. Other files in the folder are ignored."""
    entries = backend.entries("runs")
    newest = sorted(entries, key=lambda name: (entries[name].modified, name), reverse=True)
    names = (name.removesuffix(".json") for name in newest if name.endswith(".json"))
    return [name for name in names if RUN_NAME.fullmatch(name) and name not in POINTERS]


def read_runs(backend: Backend, limit: int | None = None) -> Runs:
    """The runs that were written last."""
    runs, damaged = list[Run](), list[str]()
    for name in run_names(backend)[:limit]:
        try:
            run = read_run(backend, name)
        except ArtifactError as error:
            damaged.append(str(error))
            continue
        if run is not None:
            runs.append(run)
    return Runs(sorted(runs, key=lambda run: run["updated"], reverse=True), damaged)


def _latest(backend: Backend) -> Pointer | None:
    """`latest`; nothing is lost with a damaged one, as every run writes it."""
    try:
        return read_pointer(backend, "latest")
    except ArtifactError:
        return None


def point(backend: Backend, pointer: str, run: str, stages: Mapping[str, str], history: list[Target] | None = None) -> None:
    """Point a pointer to a run's artifacts.

    A different earlier target is added to the pointer's history, unless `history` is given.
    """
    before = _latest(backend) if pointer == "latest" else read_pointer(backend, pointer)
    given = history is not None
    history = history if history is not None else before["history"] if before is not None else []
    if before is not None and before["stages"] != dict(stages) and pointer != "latest" and not given:
        target = Target(run=before["run"], stages=before["stages"], updated=before["updated"])
        history = [target, *history][:HISTORY]
    document = {"run": run, "stages": dict(stages), "updated": _now(), "history": history}
    backend.write(f"pointers/{pointer}.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))


def read_pointer(backend: Backend, pointer: str) -> Pointer | None:
    """A pointer, or None.

    Raises:
        ArtifactError: its document is damaged.
    """
    content = backend.read(f"pointers/{pointer}.json")
    return None if content is None else parse_pointer(content, pointer)


class Pointers(NamedTuple):
    """Pointers by name, and a line for each that is damaged."""

    pointers: dict[str, Pointer]
    damaged: list[str]


def pointers(backend: Backend) -> Pointers:
    """All pointers."""
    found, damaged = dict[str, Pointer](), list[str]()
    for name in POINTERS:
        try:
            pointer = read_pointer(backend, name)
        except ArtifactError as error:
            damaged.append(str(error))
            continue
        if pointer is not None:
            found[name] = pointer
    return Pointers(found, damaged)


def stages_of(backend: Backend, name: str) -> Stages:
    """The artifacts of a pointer or a run.

    Raises:
        ArtifactMissing: neither exists.
    """
    found = read_pointer(backend, name) if name in POINTERS else read_run(backend, name)
    if found is None:
        raise ArtifactMissing(f"{name}: no such run or pointer; `mind status` lists them")
    return found["stages"]
