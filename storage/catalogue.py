"""The catalogue: runs, and pointers such as `latest` and `promoted`, as small JSON documents.

`runs/<name>.json` holds {stage: fingerprint}, the configuration and the status of a run, and the artifacts of earlier runs of that name for
comparison; the latter are not protected from garbage collection. A pointer, `pointers/<name>.json`, holds a run's name and its artifacts at
the time it was set, so running again under the same name does not move it. Every run sets `latest`; a decision sets `promoted`. A pointer's
history keeps its earlier versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from storage.backend import Backend
from storage.errors import ArtifactError, ArtifactMissing

HISTORY: Final = 20
EARLIER: Final = 5


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _read(backend: Backend, key: str) -> dict[str, Any] | None:
    content = backend.read(key)
    if content is None:
        return None
    try:
        found = orjson.loads(content)
        return {**found, "stages": dict(found["stages"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{key}: damaged; remove it, and run its configuration again to recreate it") from error


def record_run(backend: Backend, name: str, stages: Mapping[str, str], config: Mapping[str, Any], status: str) -> None:
    """Write a run and point `latest` to it."""
    write_run(backend, name, stages, config, status)
    point(backend, "latest", name, stages)


def write_run(backend: Backend, name: str, stages: Mapping[str, str], config: Mapping[str, Any], status: str) -> None:
    """Write a run."""
    before = read_run(backend, name)
    earlier = [] if before is None else before.get("earlier", [])
    if before is not None and before["stages"] != dict(stages):
        earlier = [before["stages"], *earlier][:EARLIER]
    document = {
        "name": name,
        "status": status,
        "updated": _now(),
        "stages": dict(stages),
        "earlier": earlier,
        "config": dict(config),
    }
    backend.write(f"runs/{name}.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))


def forget_run(backend: Backend, name: str) -> None:
    """Remove a run from the catalogue; artifacts that only it reached become garbage.

    Raises:
        ArtifactMissing: no such run exists.
    """
    if read_run(backend, name) is None:
        raise ArtifactMissing(f"{name}: no such run; `mind status` lists them")
    backend.remove(f"runs/{name}.json")
    latest = read_pointer(backend, "latest")
    if latest is not None and latest["run"] == name:
        backend.remove("pointers/latest.json")


def read_run(backend: Backend, name: str) -> dict[str, Any] | None:
    """A run by its name, or None."""
    return _read(backend, f"runs/{name}.json")


def run_names(backend: Backend) -> list[str]:
    """Names of all runs, most recently written first."""
    entries = backend.entries("runs")
    newest = sorted(entries, key=lambda name: (entries[name].modified, name), reverse=True)
    return [name.removesuffix(".json") for name in newest if name.endswith(".json")]


def read_runs(backend: Backend, limit: int | None = None) -> list[dict[str, Any]]:
    """Runs, newest first."""
    found = (read_run(backend, name) for name in run_names(backend)[:limit])
    return sorted((run for run in found if run is not None), key=lambda run: str(run["updated"]), reverse=True)


def point(
    backend: Backend, pointer: str, run: str, stages: Mapping[str, str], history: list[dict[str, Any]] | None = None
) -> None:
    """Point a pointer to a run's artifacts.

    A different earlier target is added to the pointer's history, unless `history` is given.
    """
    before = read_pointer(backend, pointer)
    given = history is not None
    history = history if history is not None else before["history"] if before is not None else []
    if before is not None and before["stages"] != dict(stages) and pointer != "latest" and not given:
        history = [{key: before[key] for key in ("run", "stages", "updated")}, *history][:HISTORY]
    document = {"run": run, "stages": dict(stages), "updated": _now(), "history": history}
    backend.write(f"pointers/{pointer}.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))


def read_pointer(backend: Backend, pointer: str) -> dict[str, Any] | None:
    """A pointer (run, stages, updated, history), or None."""
    return _read(backend, f"pointers/{pointer}.json")


def pointers(backend: Backend) -> dict[str, dict[str, Any]]:
    """All pointers by name."""
    names = [name.removesuffix(".json") for name in backend.names("pointers") if name.endswith(".json")]
    found = ((name, read_pointer(backend, name)) for name in names)
    return {name: pointer for name, pointer in found if pointer is not None}


def stages_of(backend: Backend, name: str) -> dict[str, str]:
    """The artifacts of a pointer or a run.

    Raises:
        ArtifactMissing: neither exists.
    """
    found = read_pointer(backend, name) or read_run(backend, name)
    if found is None:
        raise ArtifactMissing(f"{name}: no such run or pointer; `mind status` lists them")
    return dict(found["stages"])
