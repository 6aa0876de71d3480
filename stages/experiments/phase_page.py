"""Writes the phase diagram: the experiment's comparison for every combination of student and number of questions.

Writes into one folder, replacing earlier files: `phase.json` (all figures of every cell), a plot per group, and the page `phase.html`. The
advantage in a cell is the margin over that cell's best baseline, chosen by its results on the same items, which favours the baseline
(`stages/experiments/claims.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from pipeline.analysis.experiment_plots import phase_diagram
from pipeline.analysis.statistics import Interval
from stages.experiments.comparison import GROUPS
from stages.shared.pages import embedded, png, render
from storage.atomic import write_bytes


class Cell(NamedTuple):
    """A student, its number of parameters, the number of training questions, and the result of `stages.experiments.comparison.compare`."""

    student: str
    parameters: int
    questions: int
    compared: dict[str, Any]

    @property
    def size(self) -> str:
        """The student's label in plots and tables."""
        return f"{self.student} ({self.parameters / 1e6:.2g} M)"


def _advantage(cell: Cell, group: str) -> Interval:
    said = cell.compared["claims"][group]
    return Interval(said["margin"], said["low"], said["high"])


def write(cells: Sequence[Cell], folder: Path) -> dict[str, Any]:
    """Write everything into `folder`; returns the figures."""
    found = {"cells": [{**cell._asdict(), "size": cell.size} for cell in cells]}
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "phase.json", orjson.dumps(found, option=orjson.OPT_INDENT_2))
    images = {}
    for group in GROUPS:
        image = png(phase_diagram({(cell.size, cell.questions): _advantage(cell, group) for cell in cells}))
        write_bytes(folder / f"phase-{group}.png", image)
        images[group] = embedded(image)
    write_bytes(
        folder / "phase.html", render(Path(__file__).with_name("phase.html"), found=found, groups=GROUPS, images=images)
    )
    return found
