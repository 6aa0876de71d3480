"""Reads YAML configuration strictly: duplicate keys, unknown fields and bombs are errors, reported in one line.

A file is parsed into a tree, `--set` changes the tree, and a pydantic model validates it. The error line names file, field, expected value
and remedy, and suggests the closest known key for a misspelt one.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError, shown
from pipeline.schema.bounded_yaml import LARGEST_BYTES, parse

Model = TypeVar("Model", bound=BaseModel)


def _known_keys(location: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    """Field names of the model at an error's location."""
    model: Any = root
    for part in location:
        if isinstance(part, int) or part.startswith("<"):
            continue
        tagged = [option for option in _models(model) if _tag(option) == part]
        if tagged:
            model = tagged[0]
            continue
        fields = [option.model_fields[part].annotation for option in _models(model) if part in option.model_fields]
        if not fields:
            return []
        model = fields[0]
    return sorted({name for option in _models(model) for name in option.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return kind.default if kind is not None and isinstance(kind.default, str) else None


def _explain(error: ValidationError, where: str, root: type[BaseModel]) -> str:
    first = error.errors()[0]
    location = first["loc"]
    field = ".".join(shown(str(part)) for part in location if not str(part).startswith("<")) or "the file"
    if first["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], root)
        if location[-1] in known:
            return f"{where}: {field}: does not go with the other keys of its section; remove it"
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it; docs/config.md lists the keys"
        return f"{where}: {field}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{where}: {field}: missing; add it"
    message = re.sub(r"^Value error, ", "", first["msg"])
    given = "" if isinstance(first["input"], dict) else f", not {_given(first['input'])}"
    return f"{where}: {field}: {message[:1].lower() + message[1:]}{given}; correct this field"


def _given(value: Any) -> str:
    return repr(shown(value)) if isinstance(value, str) else shown(value)


def override(tree: dict[str, Any], assignment: str) -> None:
    """Sets KEY=VALUE in the tree in place; the value is parsed as YAML.

    Raises:
        ConfigError: not a KEY=VALUE pair, or the parent of the key is not a section.
    """
    key, separator, text = assignment.partition("=")
    said = shown(assignment)
    if not separator or not key:
        raise ConfigError(f"--set {said}: expected KEY=VALUE, for example training.steps=100")
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.get(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {said}: {parent} is not a section; name a field inside a section")
        # A YAML anchor is one shared object; copy it so that the override applies here only.
        tree[parent] = tree = dict(child)
    try:
        tree[last] = parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {said}: the value is not valid YAML{_problem(error)}; quote it") from error


def _problem(error: Exception) -> str:
    return f" ({error.problem})" if isinstance(error, yaml.MarkedYAMLError) and error.problem else ""


def read(path: Path, remedy: str) -> dict[str, Any]:
    """The tree of a YAML file; `remedy` is the advice if the file is missing.

    Raises:
        ConfigError: no such file, invalid YAML, a duplicate key, or no mapping at the top level.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; {remedy}")
        with path.open("rb") as stream:
            tree = parse(stream.read(LARGEST_BYTES + 1).decode())
    except OSError as error:
        raise ConfigError(f"{shown(str(path))}: cannot be read ({error.strerror}); {remedy}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = f" line {error.problem_mark.line + 1}" if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else ""
        raise ConfigError(f"{path}:{line} not valid YAML{_problem(error)}; correct it") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections; see configs/ for examples")
    return tree


def checked(model: type[Model], tree: dict[str, Any], where: str, base: Path) -> Model:
    """Validates a tree against a model; relative paths in it are resolved against `base`.

    Raises:
        ConfigError: one line with the file, the first invalid field, the expected value and the remedy.
    """
    try:
        return model.model_validate(tree, context={"base": base})
    except ValidationError as error:
        raise ConfigError(_explain(error, where, model)) from error
