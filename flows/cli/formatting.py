"""Shared output of all commands: error reporting, tables and JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.terminal_door import at_the_door, door_console, visible
from pipeline.errors import MindError, redacted
from storage.errors import StorageError

RUN: Final = "Run"
LOOK: Final = "Look"
DATA: Final = "Data and models"
KEEP: Final = "Keep and move"
EXPERIMENTS: Final = "Experiments"
"""Groups of commands in `mind --help`."""

AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


@contextmanager
def reported() -> Iterator[None]:
    """Print MIND's own errors and Ctrl-C as one line, and exit with the matching code; all output passes the terminal's door."""
    with at_the_door():
        try:
            yield
        except (MindError, StorageError) as error:
            print(f"mind: {redacted(str(error))}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print("mind: stopped; run the same command again to resume", file=sys.stderr)
            raise typer.Exit(130) from None


def print_json(document: Any) -> None:
    """Print a document as JSON, for other programs."""
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())


def console() -> Console:
    """A console as wide as the terminal; without a terminal, wide enough that no cell is cut."""
    return door_console(200)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """Print a table, for people. Columns named in `right` are right-aligned."""
    table = Table(box=None, pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else Text(visible(str(cell))) for cell in row))  # no text of rich's markup
    console().print(table)


def size(count: int | None) -> str:
    """A number of bytes in readable units."""
    if count is None:
        return ""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def duration(seconds: float | None) -> str:
    """A number of seconds in readable units."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
