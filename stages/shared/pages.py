"""Renders self-contained HTML pages from templates, without network: shared style inlined, figures embedded as PNG."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: Final = Path(__file__).parent / "page.css"
"""The style of every page; templates include it by its name."""


def render(template: Path, **values: Any) -> bytes:
    """Render an HTML template, which may include the common style; an undefined name is an error."""
    loader = FileSystemLoader([template.parent, STYLE.parent])
    environment = ImmutableSandboxedEnvironment(autoescape=True, undefined=StrictUndefined, loader=loader)
    return environment.get_template(template.name).render(values).encode()


def render_text(template: Path, **values: Any) -> bytes:
    """Render a plain-text template; lines that contain only template statements are removed."""
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, loader=FileSystemLoader(template.parent), trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template.name).render(values).encode()


def png(figure: Figure) -> bytes:
    """A figure encoded as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def embedded(image: bytes) -> str:
    """A PNG encoded for an HTML page."""
    return base64.b64encode(image).decode()
