"""Writes the generated references: docs/config.md from the configuration models, docs/commands.md from the command line.

`python -m scripts.reference_docs` (`make docs`) writes the files; a test fails when one is not current. A field's meaning is the string
literal below it, which is read from the source, so that no run pays for it.
"""

from __future__ import annotations

import ast
import html
import inspect
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.run import RunConfig
from pipeline.perspectives.perspective import Perspective

DOCS: Final = Path(__file__).parents[1] / "docs"
_HEAD: Final = """# Configuration reference

Every field of a run's YAML file, for users who write or change one. Generated from the code by `make docs`; do not edit.

- `mind plan CONFIG` checks a file without loading a model. Unknown keys are errors.
- `--set a.b=c` overrides one field for one command.
- *identity* fields decide what is computed and enter the fingerprint: another value makes the stage and those after it run again.
  *runtime* fields decide where or how fast: another value runs nothing again.
- Relative paths are relative to the YAML file.
- `questions: {panel: FILE}` takes the lists `train` and `evaluation` of another file.
"""


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """The string literal below each field, in one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = inspect.cleandoc(str(text.value.value)).replace("\n", " ")  # type: ignore[attr-defined]
    for base in model.__bases__:
        if issubclass(base, BaseModel) and base.model_fields:
            found = {**_meanings(base), **found}
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Models inside an annotation, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _type(annotation: Any) -> str:
    """An annotation in words that a writer of YAML knows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " \\| ".join(f"`{str(item).lower() if isinstance(item, bool) else item}`" for item in arguments)
    if origin in (Union, types.UnionType):
        return " \\| ".join(dict.fromkeys(_type(item) for item in arguments))
    if origin is tuple or origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"map of {_type(arguments[0])} to {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "`true` \\| `false`",
        type(None): "null",
        Path: "path",
        Any: "any",
    }
    return names[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    text = str(value).replace("\n", "\\n").replace("|", "\\|")
    return f"`{text}`" if text else "empty"


def _limits(field: FieldInfo) -> str:
    """Bounds of a number, as pydantic keeps them in the field's metadata."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [
        f"{sign} {value}"
        for item in field.metadata
        for name, sign in signs.items()
        if (value := getattr(item, name, None)) is not None
    ]
    return f" ({', '.join(found)})" if found else ""


def _section(model: type[BaseModel]) -> Iterator[str]:
    about, meanings = inspect.cleandoc(model.__doc__ or "").partition("\n\n"), _meanings(model)
    yield f"\n## {model.__name__}\n\n{' '.join(''.join(about).split())}\n\n"
    yield "| field | type | default | role | meaning |\n|---|---|---|---|---|\n"
    for name, field in model.model_fields.items():
        role = (field.json_schema_extra or {}).get("role", "")  # type: ignore[union-attr]
        if name not in meanings and name != "kind":
            raise ValueError(f"{model.__name__}.{name}: no text below the field; add one that says what it means")
        meaning = meanings.get(name, "The kind of this section.").replace("|", "\\|")
        yield f"| `{name}` | {_type(field.annotation)}{_limits(field)} | {_default(field)} | {role} | {meaning} |\n"


def _all(model: type[BaseModel], seen: list[type[BaseModel]]) -> list[type[BaseModel]]:
    """A model and all models in its fields, each once, in the order of first use."""
    if model not in seen:
        seen.append(model)
        for field in model.model_fields.values():
            for inner in _models(field.annotation):
                _all(inner, seen)
    return seen


def configuration() -> str:
    """The text of docs/config.md.

    Raises:
        ValueError: a field has no meaning.
    """
    models = _all(Perspective, _all(RunConfig, []))
    contents = ", ".join(f"[{model.__name__}](#{model.__name__.lower()})" for model in models)
    return f"{_HEAD}\nSections: {contents}.\n" + "".join(line for model in models for line in _section(model))


def commands() -> str:
    """The text of docs/commands.md, as typer writes it from the commands' own help."""
    typer = Path(sys.executable).with_name("typer")
    command = [str(typer), "flows.cli.app", "utils", "docs", "--name", "mind", "--title", "Command reference"]
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    written = subprocess.run(command, cwd=DOCS.parent, env=environment, capture_output=True, text=True, check=True).stdout
    head = (
        "# Command reference\n\nAll commands with their arguments and options. Generated from the code by `make docs`; do not edit.\n\n"
        "The shell completes commands and options with the Tab key after `mind --install-completion` (bash, zsh, fish, PowerShell) and in\n"
        "a new terminal. `mind --show-completion` prints the script that it would install.\n"
    )
    return html.unescape(written).replace("# Command reference\n", head, 1).rstrip() + "\n"


REFERENCES: Final = {"config.md": configuration, "commands.md": commands}

if __name__ == "__main__":
    for name, text in REFERENCES.items():
        (DOCS / name).write_text(text())
