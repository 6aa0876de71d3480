"""Renders self-contained HTML pages from templates, without network or scripts: shared style inlined, figures embedded as PNG."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE: Final = Path(__file__).parent
STYLE: Final = HERE / "page.css"


def render(template: str, **values: Any) -> bytes:
    """Render an HTML template of this folder; an undefined name is an error."""
    environment = ImmutableSandboxedEnvironment(autoescape=True, undefined=StrictUndefined, loader=FileSystemLoader(HERE))
    return environment.get_template(template).render(values).encode()


def write_out(template: str, **values: Any) -> bytes:
    """Render a plain-text template of this folder; lines that contain only template statements are removed."""
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, loader=FileSystemLoader(HERE), trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(values).encode()


def png(figure: Figure) -> bytes:
    """A figure encoded as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def embedded(image: bytes) -> str:
    """A PNG encoded for an HTML page."""
    return base64.b64encode(image).decode()
