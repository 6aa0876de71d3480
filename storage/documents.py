"""The JSON documents of a store: manifests, runs and pointers, with their fields and their names.

Documents may come from a shared root, a tar file or a damaged disk. Each is checked completely when it is read; what is returned has every
field with its type, and its paths, names and fingerprints are safe to use as keys of the root. Unknown fields are kept.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import (
    AfterValidator,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from storage.errors import ArtifactError, BadName

MANIFEST_VERSION: Final = 2
RUN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
POINTERS: Final = ("latest", "promoted")
DEEPEST: Final = 32
"""Most folders of a file's path inside an artifact; our choice, far above the three that a student's folder has."""


_DEEPEST_VALUE: Final = 200
"""Most mappings and lists inside each other: as many as pydantic reads. A stage writes fewer than 20; what walks over more may not end."""


def _inside(path: str) -> str:
    parts = path.split("/")
    if {*parts} & {"", ".", ".."} or len(parts) > DEEPEST or "\0" in path:
        raise ValueError("not a path inside an artifact")
    return path


Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Stage = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Stages = dict[Stage, Fingerprint]
"""Stage -> fingerprint."""


class File(TypedDict):
    """A file of an artifact; `rows` is None unless it is a table."""

    path: Annotated[str, AfterValidator(_inside)]
    bytes: NonNegativeInt
    rows: NonNegativeInt | None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Timing(TypedDict):
    """Start of the last process, seconds of all processes, and their number."""

    started: str
    seconds: NonNegativeFloat
    processes: NonNegativeInt


class Manifest(TypedDict):
    """The description of a complete artifact."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    schema_version: int
    stage: Stage
    fingerprint: Fingerprint
    identity: dict[str, Any]
    inputs: Stages
    config: dict[str, Any]
    summary: dict[str, Any]
    timing: Timing
    peak_mib: NonNegativeInt
    provenance: dict[str, Any]
    files: list[File]


class Run(TypedDict):
    """A run: its artifacts, those of earlier runs of its name, and its configuration (empty if it was imported)."""

    name: str
    status: Literal["running", "done", "failed", "stopped", "partial", "imported"]
    updated: str
    stages: Stages
    earlier: list[Stages]
    config: dict[str, Any]


class Target(TypedDict):
    """What a pointer pointed to until `updated`."""

    run: str
    stages: Stages
    updated: str


class Pointer(Target):
    """What a pointer points to, and its earlier targets, newest first."""

    history: list[Target]


class RecordedDecision(TypedDict):
    """A decision on a candidate; `incumbent` is None if it was compared with its own base."""

    when: str
    run: str
    candidate: Fingerprint
    incumbent: Fingerprint | None
    promote: bool
    reasons: list[str]
    figures: dict[str, Any]


_MANIFEST: Final = TypeAdapter(Manifest)
_RUN: Final = TypeAdapter(Run)
_POINTER: Final = TypeAdapter(Pointer)
_DECISION: Final = TypeAdapter(RecordedDecision)


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    place = ".".join(map(str, problem["loc"])) or "the whole"
    return f"{' '.join(place.split())[:100]}: {problem['msg'][:200]}"


def _is_deep(value: Any) -> bool:
    """Whether a value has more than `_DEEPEST_VALUE` mappings and lists inside each other."""
    level = [value]
    for _ in range(_DEEPEST_VALUE):
        inside = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [child for children in inside for child in children if isinstance(child, dict | list)]
    return bool(level)


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Parse a manifest and upgrade it to the current version.

    Version 1 did not count the processes of an artifact, and its `timing.seconds` was that of the last process.

    Raises:
        ArtifactError: damaged, or written by a newer version.
    """
    remedy = "remove its folder and run its stage again"
    try:
        found = orjson.loads(content)
        version = int(found["schema_version"])
        if version == 1:
            found["timing"]["processes"] = 1
        if _is_deep(found):
            raise ValueError("nested too deep")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArtifactError(f"{where}: damaged; {remedy}") from error
    if version > MANIFEST_VERSION:
        raise ArtifactError(f"{where}: written by a newer version of MIND (schema {str(version)[:20]}); upgrade to read it")
    try:
        manifest = _MANIFEST.validate_python(found, strict=True)
    except ValidationError as error:
        raise ArtifactError(f"{where}: damaged ({_first(error)}); {remedy}") from error
    if manifest["identity"].get("inputs", manifest["inputs"]) != manifest["inputs"]:
        raise ArtifactError(f"{where}: damaged (inputs: not those of its identity); {remedy}")
    return manifest


def _parsed(document: TypeAdapter[Any], content: bytes, where: str, remedy: str) -> Any:
    try:
        return document.validate_json(content)
    except ValidationError as error:
        raise ArtifactError(f"{where}: damaged ({_first(error)}); {remedy}") from error


def parse_run(content: bytes, name: str) -> Run:
    """Parse a run.

    Raises:
        ArtifactError: damaged.
    """
    where, remedy = f"runs/{name}.json", f"`mind forget {name}` removes it; run its configuration again"
    run: Run = _parsed(_RUN, content, where, remedy)
    if run["name"] != name:
        raise ArtifactError(f"{where}: belongs to run {run['name'][:100]!r}; {remedy}")
    return run


def parse_pointer(content: bytes, name: str) -> Pointer:
    """Parse a pointer.

    Raises:
        ArtifactError: damaged.
    """
    pointer: Pointer = _parsed(_POINTER, content, f"pointers/{name}.json", "remove it; `mind promote RUN` sets it again")
    return pointer


def parse_decision(content: bytes, name: str) -> RecordedDecision:
    """Parse a decision.

    Raises:
        ArtifactError: damaged.
    """
    remedy = "remove it; a candidate that it refused may then be promoted"
    decision: RecordedDecision = _parsed(_DECISION, content, f"decisions/{name}", remedy)
    return decision


def checked_name(name: str) -> str:
    """A run's name that can be a file's name under `runs/`, and is not a pointer's.

    Raises:
        BadName: says what a name is.
    """
    if not RUN_NAME.fullmatch(name):
        raise BadName(
            f"run name {name[:100]!r}: expected up to 100 of letters, digits, '.', '-' and '_', beginning with none of '.-'; choose another"
        )
    if name in POINTERS:
        raise BadName(f"run name {name!r}: a pointer is called so; choose another")
    return name
