"""Lineage of artifacts: ancestors, differences between two artifacts, and resolving references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from storage.catalogue import stages_of
from storage.documents import Manifest
from storage.errors import ArtifactMissing
from storage.store import Store


class Change(NamedTuple):
    """A field that differs. `None` if one side has no such field."""

    field: str
    old: Any
    new: Any


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings and lists, as (dotted field, value)."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list | tuple) and tree:
        for number, value in enumerate(tree):
            yield from flat(value, f"{prefix}.{number}")
    else:
        yield prefix, tree


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The fields in which two trees differ, in the new tree's order, then fields that only the old one has."""
    before, after = dict(flat(old)), dict(flat(new))
    fields = [*after, *(field for field in before if field not in after)]
    return [Change(field, before.get(field), after.get(field)) for field in fields if before.get(field) != after.get(field)]


def ancestors(store: Store, stage: str, fingerprint: str) -> dict[str, Manifest]:
    """Manifests of an artifact and of all its ancestors, by `stage/fingerprint`; each comes before its inputs.

    Raises:
        ArtifactMissing: an ancestor no longer exists.
    """
    found: dict[str, Manifest] = {}
    seen: set[tuple[str, str]] = set()
    waiting: list[tuple[str, str, Manifest | None]] = [
        (stage, fingerprint, None)
    ]  # no recursion: a foreign chain may have any length
    while waiting:
        stage, fingerprint, manifest = waiting.pop()
        if manifest is not None:  # all of its inputs are found
            found[f"{stage}/{fingerprint}"] = manifest
        elif (stage, fingerprint) not in seen:
            seen.add((stage, fingerprint))
            manifest = store.manifest(stage, fingerprint)
            waiting.append((stage, fingerprint, manifest))
            waiting += [(*needed, None) for needed in reversed(manifest["inputs"].items())]
    return dict(reversed(found.items()))


def resolve(store: Store, reference: str, default_stage: str) -> tuple[str, str]:
    """Stage and fingerprint of `stage/fingerprint`, a prefix of it, `run:stage`, or the name of a run or pointer.

    Raises:
        ArtifactMissing: no artifact matches, or more than one.
    """
    if "/" not in reference:
        run, _, stage = reference.partition(":")
        stage, stages = stage or default_stage, stages_of(store.backend, run)
        if stage not in stages:
            raise ArtifactMissing(f"{reference}: run {run} has no stage {stage!r}; it has {', '.join(stages)}")
        return stage, stages[stage]
    stage, _, start = reference.partition("/")
    found = [name for name in store.fingerprints(stage) if start and name.startswith(start)]
    if len(found) != 1:
        problem = "no such artifact" if not found else f"{len(found)} artifacts match"
        raise ArtifactMissing(f"{reference}: {problem}; give more digits, or RUN:STAGE")
    return stage, found[0]
