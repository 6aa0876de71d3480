"""Perspectives are data: a YAML file with a name, description, instruction and form each. This module loads it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

from pipeline.errors import ConfigError
from pipeline.perspectives.rationale_form import Form
from pipeline.schema.fields import Frozen, identity, runtime
from pipeline.schema.yaml_and_overrides import checked, read

SHIPPED: Final = Path(__file__).parent / "eight.yaml"


class Perspective(Frozen):
    """One way of reasoning, and the instruction that asks a teacher for it."""

    name: str = identity(pattern=r"^[a-z0-9_-]+$")
    """Unique name."""
    description: str = runtime()
    """One sentence for reports."""
    instruction: str = identity()
    """Text of the prompt variable `instruction`."""
    called: str | None = identity(None)
    """Text of the prompt variable `perspective`; the name if left out. Copies of a perspective share it."""
    form: Form | None = identity(None)
    """Patterns that recognise a rationale of this perspective; no check if left out."""


class _File(Frozen):
    version: int = runtime()
    """Version of the file, for its readers."""
    perspectives: tuple[Perspective, ...] = identity(min_length=1)
    """The perspectives, in the order of tables and plots."""


def load_perspectives(path: Path | None, only: tuple[str, ...] | None = None, copies: int = 1) -> tuple[Perspective, ...]:
    """The perspectives of a file, or the eight shipped ones, in the file's order.

    `only` selects some by name; `copies` repeats each one under numbered names.

    Raises:
        ConfigError: the file is missing or malformed, names a perspective twice, or has none that `only` names.
    """
    path = SHIPPED if path is None else path
    perspectives = checked(_File, read(path, "correct `perspectives` in the config"), str(path), path.parent).perspectives
    names = [perspective.name for perspective in perspectives]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: perspective {name!r} appears twice; names must be unique")
    for name in only or ():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"use some of {', '.join(names)}"
            raise ConfigError(f"only_perspectives: unknown perspective {name!r} (not in {path.name}); {hint}")
    wanted = tuple(item for item in perspectives if only is None or item.name in only)
    return wanted if copies == 1 else tuple(_copy(item, number) for item in wanted for number in range(1, copies + 1))


def without_forms(perspectives: tuple[Perspective, ...]) -> tuple[Perspective, ...]:
    """The perspectives without their forms, for stages that a changed form must not invalidate."""
    return tuple(item.model_copy(update={"form": None}) for item in perspectives)


def _copy(item: Perspective, number: int) -> Perspective:
    return item.model_copy(update={"name": f"{item.name}-{number}", "called": item.called or item.name})
