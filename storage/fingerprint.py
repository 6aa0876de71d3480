"""Identity of an artifact: a hash over canonical JSON of everything that determines its content.

Canonical means sorted keys and no locations. A value whose text could differ between two machines or two runs (a set, a path, a NaN, any
object) has no stable identity and raises an error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from storage.errors import UnstableIdentity


def _stable(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        # orjson supports integers up to 64 bits; larger ones are identified by their digits.
        return value if -(2**63) <= value < 2**64 else {"integer": str(value)}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnstableIdentity(f"{where}: {value} has no stable identity; use a finite number")
        return _stable(int(value), where) if value.is_integer() else value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UnstableIdentity(f"{where}: key {key!r} has no stable identity; use text")
        return {key: _stable(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise UnstableIdentity(f"{where}: a {type(value).__name__} has no stable identity; use text, numbers, lists or mappings")


def canonical_json(value: Any) -> bytes:
    """`value` as JSON with sorted keys; equal values give equal bytes (1 and 1.0 are equal).

    Raises:
        UnstableIdentity: names the field of a value without a stable identity.
    """
    return orjson.dumps(_stable(value, "value"), option=orjson.OPT_SORT_KEYS)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of `identity`'s canonical JSON."""
    return hashlib.sha256(canonical_json(identity)).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
