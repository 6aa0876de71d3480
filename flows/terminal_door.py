"""The terminal's door: whatever is printed passes it, so that foreign text (rows, model names, servers' errors) cannot steer the terminal.

Control characters are shown as JSON writes them: a document that `--json` prints stays the same document. Rich's own sequences, which
colour and move the cursor, are made after the door: it replaces characters in the segments of text that rich has laid out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO, Any, Final, TextIO, cast

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

_STEERING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 except tab and line feed, what turns the direction of writing, other line ends, and halves of characters."""


def visible(text: str) -> str:
    """The text with its control characters in a visible form, for example `\\u001b`."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Door:
    """A stream that shows control characters."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # rich writes there, since its own sequences have to arrive
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def at_the_door() -> Iterator[None]:
    """Inside the block, all that is printed to the terminal passes the door."""
    out, err = (stream if isinstance(stream, _Door) else _Door(stream) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        yield


class _Shown:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


class _Hook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(item) for item in renderables]


class _Console(Console):
    """Writes behind every door. Rich looks behind one stream, but while it draws a line again it puts its own before the door."""

    @property
    def file(self) -> IO[str]:
        found = super().file
        while isinstance(found, _Door):
            found = found.rich_proxied_file
        return found

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file


def door_console(width: int) -> Console:
    """A console at the door, as wide as the terminal; `width` without one."""
    made = _Console(highlight=False) if sys.stdout.isatty() else _Console(highlight=False, width=width)
    made.push_render_hook(_Hook())
    return made
