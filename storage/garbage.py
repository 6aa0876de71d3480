"""Garbage collection: removes what no run and no pointer reaches.

Kept are all artifacts that a run, a pointer or a pointer's history names, with all their ancestors; unfinished artifacts of recorded runs,
which resume from them; and everything that a live process writes or reads. The rest is removed, manifests first, so that a half-removed
artifact does not count as one. If a document is damaged, it is unknown what it reaches; then only files left over beside complete artifacts
are removed.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Final, NamedTuple

import orjson

from storage import lease
from storage.artifact import MANIFEST
from storage.backend import Backend, Entry
from storage.catalogue import pointers, read_runs
from storage.errors import ArtifactBusy, ArtifactError, RootUnavailable
from storage.store import Store

_NOT_STAGES: Final = ("runs", "pointers", "decisions")
_OURS: Final = re.compile(r"([0-9a-f]{16})(?:\.([a-z]+))?")
"""Names of artifacts and of the files beside them. Nothing else is touched: the root may contain other files."""

_STAYS: Final = ("", "log", "config")
"""Suffixes that are kept beside a complete artifact, for people to read; all others are only useful to an unfinished artifact."""
_LEFT_OVER: Final = "left over: its artifact is complete"


class Garbage(NamedTuple):
    """A removable item: a key of the root, its size, the reason, and the run that made it ("" if unknown)."""

    key: str
    bytes: int
    why: str
    run: str


class Reached(NamedTuple):
    """`stage/fingerprint` of everything that a run or pointer names and its ancestors; a line for each document that is damaged."""

    names: set[str]
    damaged: list[str]


def _used(backend: Backend) -> set[str]:
    """Artifacts that live processes read."""
    leases = (f"{stage}/{name}" for stage in _stages(backend) for name in backend.names(stage) if name.endswith(".lease"))
    holders = (lease.last(backend, key) for key in leases if lease.may_be_held(backend, key))
    return {needed for holder in holders if holder is not None for needed in holder.needs}


def _stages(backend: Backend) -> list[str]:
    return [name for name in backend.names("") if name not in _NOT_STAGES and not name.startswith(".")]


def reachable(store: Store) -> Reached:
    """Everything that must be kept."""
    (runs, damaged), (held, more) = read_runs(store.backend), pointers(store.backend)
    damaged = damaged + more
    named = [run["stages"] for run in runs]
    for pointer in held.values():
        named += [pointer["stages"], *(earlier["stages"] for earlier in pointer["history"])]
    waiting = [f"{stage}/{digest}" for stages in named for stage, digest in stages.items()]
    waiting += _used(store.backend)
    found = set[str]()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if not store.backend.has(f"{name}/{MANIFEST}"):
            continue
        try:
            manifest = store.manifest(*name.split("/"))
        except RootUnavailable:
            raise
        except ArtifactError as error:
            damaged.append(str(error))
            continue
        waiting += [f"{stage}/{digest}" for stage, digest in manifest["inputs"].items()]
    return Reached(found, damaged)


def _size(backend: Backend, key: str) -> int:
    """Bytes under a key, at any depth."""
    below = backend.names(key)
    if not below:
        folder, _, name = key.rpartition("/")
        entry = backend.entries(folder).get(name)
        return entry.bytes if entry is not None else 0
    files = backend.entries(key)
    return sum(entry.bytes for entry in files.values()) + sum(_size(backend, f"{key}/{n}") for n in below if n not in files)


def garbage(store: Store) -> tuple[list[Garbage], list[str]]:
    """Everything that can be removed, stage by stage, and a line for each damaged document."""
    backend, (kept, damaged) = store.backend, reachable(store)
    found = list[Garbage]()
    for stage in _stages(backend):
        names = [name for name in backend.names(stage) if _OURS.fullmatch(name)]
        digests = {name.partition(".")[0] for name in names}
        written = {
            digest for digest in digests if f"{digest}.lease" in names and lease.may_be_held(backend, f"{stage}/{digest}.lease")
        }
        for name in names:
            digest, _, kind = name.partition(".")
            if digest in written:
                continue
            complete = digest in names and backend.has(f"{stage}/{digest}/{MANIFEST}")
            why = _why(kind, complete, bool(damaged) or f"{stage}/{digest}" in kept)
            if why is not None:
                size = _bytes(store, stage, name, complete and not kind)
                found.append(Garbage(f"{stage}/{name}", size, why, _run(backend, f"{stage}/{digest}")))
    return found, damaged


def _run(backend: Backend, name: str) -> str:
    """The name in the configuration that was frozen beside an artifact."""
    try:
        return str(orjson.loads(backend.read(f"{name}.config") or b"{}").get("name", ""))
    except (ValueError, AttributeError, ArtifactError):
        return ""


def _bytes(store: Store, stage: str, name: str, complete: bool) -> int:
    if complete:
        try:
            return sum(int(entry["bytes"]) for entry in store.manifest(stage, name)["files"])
        except ArtifactError:  # damaged: count the existing files
            pass
    return _size(store.backend, f"{stage}/{name}")


def _why(kind: str, complete: bool, kept: bool) -> str | None:
    if not kept:
        return "no run or pointer reaches it"
    if kind not in _STAYS and complete:
        return _LEFT_OVER
    return None


def collect(store: Store, found: list[Garbage]) -> int:
    """Remove what `garbage` found, except what a run has reached since; returns the number of freed bytes.

    An item is removed under its artifact's lease, after a look at the runs under the same lease. A process that records its run and then
    finds no lease can therefore rely on the artifacts that exist.
    """
    backend, freed = store.backend, 0
    known, (kept, damaged) = _documents(backend), reachable(store)
    for name, items in groupby(found, key=lambda item: item.key.partition(".")[0]):
        chosen = [item for item in items if item.why == _LEFT_OVER or not (damaged or name in kept)]
        if not chosen or lease.may_be_held(backend, f"{name}.lease"):
            continue
        try:
            # Held also so that no process starts writing what is being removed; removing its folder releases it.
            with lease.hold(backend, f"{name}.lease", name) as held:
                if (now := _documents(backend)) != known:
                    known, (kept, damaged) = now, reachable(store)
                    chosen = [item for item in chosen if item.why == _LEFT_OVER or not (damaged or name in kept)]
                for item in chosen:
                    _remove(backend, item.key)
                    freed += item.bytes
                held.finished = bool(chosen) or backend.has(f"{name}/{MANIFEST}")
        except ArtifactBusy:
            continue
    return freed


def _documents(backend: Backend) -> list[dict[str, Entry]]:
    """Sizes and times of the runs and pointers, which change when what is reachable does."""
    return [backend.entries(folder) for folder in ("runs", "pointers")]


def _remove(backend: Backend, key: str) -> None:
    if key.endswith(".lease"):
        return
    backend.remove(f"{key}/{MANIFEST}")
    backend.remove_all(key)
    backend.remove(key)  # if it is a file
