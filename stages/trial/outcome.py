"""The outcome of a trial, as a file that the trial's process writes and its caller reads.

The first outcome that is written stays: when one rank fails, the others fail after it, with errors that only say that it is gone.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline.config.run import RunConfig, load_config
from pipeline.errors import BadInput, MindError


class Outcome(NamedTuple):
    """What a trial saw; with a remedy it failed."""

    found: str
    remedy: str = ""


def failure(error: Exception, remedy: str) -> Outcome:
    """The last line of an error. `remedy` is used unless the error names one that fits here: input that must be corrected."""
    last = [line.strip() for line in str(error).splitlines() if line.strip()][-1:]
    said = last[0] if last else "no message"
    if not isinstance(error, MindError):
        return Outcome(f"{type(error).__name__}: {said}", remedy)
    found, separator, own = said.rpartition("; ")
    if not separator:
        return Outcome(said, remedy)
    return Outcome(found, own if isinstance(error, BadInput) else remedy)


def write_outcome(file: Path, outcome: Outcome) -> None:
    """Write an outcome, unless there is one."""
    try:
        with file.open("x") as stream:
            json.dump(outcome, stream)
    except FileExistsError:
        return


def read_outcome(file: Path) -> Outcome | None:
    """The outcome, or None if the process ended without one."""
    try:
        return Outcome(*json.loads(file.read_text()))
    except (FileNotFoundError, ValueError):
        return None


def attempt(work: Callable[[], Outcome | None], file: Path, remedy: str) -> None:
    """Do the work of a trial and write its outcome, if it is this process that has one.

    Raises:
        SystemExit: with code 1, after an error of any kind was written as the outcome.
    """
    try:
        outcome = work()
    except Exception as error:  # noqa: BLE001 - whatever a library raises is what the trial is for
        if not isinstance(error, BadInput):  # its message says all
            traceback.print_exc()
        write_outcome(file, failure(error, remedy))
        raise SystemExit(1) from None
    if outcome is not None:
        write_outcome(file, outcome)


def arguments_of(name: str) -> tuple[RunConfig, Path, str]:
    """The command line of `python -m stages.trial.<name>`: the run, the outcome's file, and what is tried."""
    parser = argparse.ArgumentParser(prog=f"python -m stages.trial.{name}")
    parser.add_argument("--config", type=Path, required=True, help="the run's YAML file")
    parser.add_argument("--outcome", type=Path, required=True, help="the file to write")
    parser.add_argument("what", nargs="?", default=name)
    given = parser.parse_args()
    return load_config(given.config), given.outcome, given.what
