"""Foreign text cannot steer the terminal: every control character arrives in a visible form, whoever prints it."""

from __future__ import annotations

import io
import json
import sys

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.cli.formatting import print_json, print_table, reported
from flows.terminal_door import _Hook, visible
from pipeline.errors import ConfigError
from storage.errors import BadRoot

STEERING = [
    "\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "a\rb", "a\x08b", "\x1b]52;c;cm0=\x1b\\", "\u202eabc", "\u2066", "\x7f", "\0", "\ud800",
]  # fmt: skip


def _steers(text: str) -> bool:
    return any(visible(character) != character for character in text)


@given(st.text(st.characters() | st.sampled_from("\x1b\x9b\r\x07\u202e")))
def test_what_is_visible_steers_nothing_and_is_otherwise_the_same(text: str) -> None:
    shown = visible(text)
    assert not _steers(shown)
    assert visible(shown) == shown
    assert "\n" in shown or "\n" not in text


@pytest.mark.parametrize("text", STEERING)
def test_no_command_prints_a_control_character(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with reported():
        print(f"row {text}")
        print(f"warning {text}", file=sys.stderr)
        print_table(("column", text), [(text, 1), ("[bold]", text)])
        print_json({"name": text.replace("\ud800", "")})
    found = capsys.readouterr()
    assert not _steers(found.out + found.err)
    assert visible(text) in found.out
    assert visible(text) in found.err


@pytest.mark.parametrize("kind", [ConfigError, BadRoot])
def test_an_error_is_printed_without_control_characters_and_secrets(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit), reported():
        raise kind("column \x1b[2J: http://user:Hunter2@host/v1 does not answer; correct it")
    assert capsys.readouterr().err == "mind: column \\u001b[2J: http://***@host/v1 does not answer; correct it\n"


def test_a_json_document_stays_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"name": "\x1b[2J \x9b \u202e é \n\t"}
    with reported():
        print_json(document)
    assert json.loads(capsys.readouterr().out) == document


def test_rich_keeps_its_own_colours_and_shows_those_of_others() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", highlight=False, width=80)
    console.push_render_hook(_Hook())
    console.print("[green]done[/] \x1b[31mred")
    console.print(Text("text \x1b]0;title\x07", style="bold"))
    table = Table(title="\x9b2J")
    table.add_column("\u202e")
    table.add_row("\x1b[2J")
    console.print(table)
    written = out.getvalue()
    assert "\x1b[32mdone\x1b[0m" in written
    for foreign in ("\x1b[31m", "\x1b]0", "\x07", "\x9b", "\u202e", "\x1b[2J"):
        assert foreign not in written
        assert visible(foreign) in written or foreign == "\x07"
