"""Base classes of all configuration models: immutable pydantic models whose fields are marked *identity* or *runtime*.

Identity fields decide what is computed and enter artifact fingerprints. Runtime fields decide where and how fast it is computed (devices,
batch per device, folders, ports); changing one does not invalidate artifacts. Locations are always runtime fields: a local file enters a
fingerprint by its content, a hub name by its pinned revision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo
from pydantic.functional_validators import AfterValidator


def identity(default: Any = ..., **limits: Any) -> Any:
    """A field that decides what is computed."""
    return Field(default, json_schema_extra={"role": "identity"}, **limits)


def runtime(default: Any = ..., **limits: Any) -> Any:
    """A field that decides where or how fast it is computed, never what."""
    return Field(default, json_schema_extra={"role": "runtime"}, **limits)


def _resolve(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base")
    return path if base is None or path.is_absolute() else (Path(base) / path).resolve()


FilePath = Annotated[Path, AfterValidator(_resolve)]
"""A path; relative paths are resolved against the config file's folder on loading."""


def _locate(location: str, info: ValidationInfo) -> str:
    return location if "://" in location else str(_resolve(Path(location), info))


Location = Annotated[str, AfterValidator(_locate)]
"""A local folder, or a URL such as s3://bucket/prefix."""


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
