"""Base classes of all configuration models: immutable pydantic models whose fields are marked *identity* or *runtime*.

Identity fields decide what is computed and enter artifact fingerprints. Runtime fields decide where and how fast it is computed (devices,
batch per device, folders, ports); changing one does not invalidate artifacts. Locations are always runtime fields: a local file enters a
fingerprint by its content, a hub name by its pinned revision.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo
from pydantic.functional_validators import AfterValidator

from pipeline.errors import SECRET_KEY


def identity(default: Any = ..., **limits: Any) -> Any:
    """A field that decides what is computed."""
    return Field(default, json_schema_extra={"role": "identity"}, **limits)


def runtime(default: Any = ..., **limits: Any) -> Any:
    """A field that decides where or how fast it is computed, never what."""
    return Field(default, json_schema_extra={"role": "runtime"}, **limits)


LONGEST_NAME: Final = 255
"""Bytes of a file's name; no common file system takes more."""


def _nameable(text: str) -> str:
    """Raises ValueError for a path that no file system takes."""
    if "\0" in text:
        raise ValueError("has a NUL character, which no path may have")
    if any(len(part.encode(errors="replace")) > LONGEST_NAME for part in text.split("/")):
        raise ValueError(f"has a name of more than {LONGEST_NAME} bytes, which no file system takes")
    return text


def _resolve(path: Path, info: ValidationInfo) -> Path:
    _nameable(str(path))
    base = (info.context or {}).get("base")
    return path if base is None or path.is_absolute() else (Path(base) / path).resolve()


FilePath = Annotated[Path, AfterValidator(_resolve)]
"""A path; relative paths are resolved against the config file's folder on loading."""


def _without_secrets(address: str) -> SplitResult:
    """Raises ValueError for an address with a user, a password or a key in it: it would be written into artifacts, logs and pages."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        raise ValueError("is no valid address") from None
    if "@" in parts.netloc or ("@" in address.partition("?")[0].partition("://")[2] and parts.scheme in ("http", "https")):
        raise ValueError(
            "an address must have no user or password, because it is stored and shown; give them in the environment"
        )
    for name, _ in (*parse_qsl(parts.query, True), *parse_qsl(parts.fragment, True)):
        if re.fullmatch(SECRET_KEY, name):
            raise ValueError(f"an address must have no {name[:60]}, because it is stored and shown; give it in the environment")
    return parts


def _address(text: str) -> str:
    parts = _without_secrets(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s|\0", text):
        raise ValueError("expected an address such as http://127.0.0.1:8000/v1")
    return text


Address = Annotated[str, AfterValidator(_address)]
"""An http address without a user, a password or a key in it."""


def _different(addresses: tuple[str, ...]) -> str | tuple[str, ...]:
    twice = next((one for number, one in enumerate(addresses) if one in addresses[:number]), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice; name each server once")
    return addresses if len(addresses) > 1 else addresses[0]


Addresses = Annotated[
    Annotated[Address, Tag("<one>")]
    | Annotated[tuple[Address, ...], Field(min_length=1), AfterValidator(_different), Tag("<several>")],
    Discriminator(lambda value: "<one>" if isinstance(value, str) else "<several>"),
]
"""One address, or a list of different ones; a list of one is that one."""


def _locate(location: str, info: ValidationInfo) -> str:
    if "://" not in location:
        return str(_resolve(Path(location), info))
    _without_secrets(location)
    return _nameable(location)


Location = Annotated[str, AfterValidator(_locate)]
"""A local folder, or a URL such as s3://bucket/prefix without keys in it."""


def _not_a_pointer(name: str) -> str:
    if name in ("latest", "promoted"):
        raise ValueError("a pointer of the catalogue is called so; choose another name")
    return name


RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100), AfterValidator(_not_a_pointer)]
"""A run's name: a file name under any root, not that of a pointer. The catalogue refuses the same names."""


class Frozen(BaseModel):
    """Base of all configuration models: immutable; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def identity_fields(value: Any) -> Any:
    """`value` as plain data without runtime fields, recursively.

    Fields that are None are omitted, so a new option that is not used does not invalidate existing artifacts.
    """
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: identity_fields(getattr(value, name))
            for name, field in fields.items()
            if (field.json_schema_extra or {}).get("role") == "identity"  # type: ignore[union-attr]
            and getattr(value, name) is not None
        }
    if isinstance(value, list | tuple):
        return [identity_fields(item) for item in value]
    if isinstance(value, dict):
        return {key: identity_fields(item) for key, item in value.items()}
    return value
