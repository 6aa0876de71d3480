"""`mind --help` is grouped and fits a terminal of 80 columns; the shell completes commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import typer
from typer.core import TyperGroup

from flows.cli.app import app
from tests.support.runs import REPOSITORY

PANELS = ["Run", "Look", "Data and models", "Keep and move", "Experiments"]


def all_commands(group: TyperGroup) -> dict[str, str]:
    """Every command of a group and of the groups below it, with the first paragraph of its help."""
    found = {}
    for name, command in group.commands.items():
        found[name] = (command.help or "").split("\n\n")[0]
        if isinstance(command, TyperGroup):
            found |= {f"{name} {below}": text for below, text in all_commands(command).items()}
    return found


def test_every_command_is_in_a_group_and_has_a_line_of_its_own_at_80_columns() -> None:
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "flows.cli", "--help"]
    said = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"╭─ (.*?) ─+╮", said) == ["Options", *PANELS]
    groups = said.partition("╭─ Run")[2]
    rows = [line.strip("│ ") for line in groups.splitlines() if line.startswith("│")]
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    assert sorted(row.split()[0] for row in rows) == sorted(root.commands), "no summary takes a second line"


def test_every_command_has_a_summary_of_one_sentence() -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    for name, text in all_commands(root).items():
        assert re.fullmatch(r"[A-Z][^\n]{8,}\.", text), f"{name}: {text!r}"


def test_the_completion_that_is_installed_completes_commands_and_options(tmp_path: Path) -> None:
    script = tmp_path / "mind"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from flows.cli.app import app; app(prog_name=\'mind\')" "$@"\n')
    script.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"  # the shell is named here; nobody types

    def bash(words: str) -> list[str]:
        completion = f"COMP_WORDS=({words}) COMP_CWORD={len(words.split()) - 1}; _mind_completion mind; echo ${{COMPREPLY[@]}}"
        command = ["bash", "-c", f"source {tmp_path}/.bash_completions/mind.sh; {completion}"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    subprocess.run([script, "--install-completion", "bash"], env=environment, capture_output=True, check=True)
    assert bash("mind re") == ["redistill", "reports", "release"]
    assert bash("mind plan --s") == ["--set"]
