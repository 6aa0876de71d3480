"""Phase diagram: each cell has its own comparison, and the page lists every arm of every cell."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from stages.experiments.comparison import compare
from stages.experiments.phase_page import Cell, write
from tests.support.finished_runs import finished_runs


def test_every_cell_has_its_own_figures_in_file_and_page(tmp_path: Path) -> None:
    runs = finished_runs(tmp_path)
    everything = compare(runs, "mind")
    alike = compare([run for run in runs if run.arm.name != "weak"], "mind")
    write([Cell("small", 130_000, 100, everything), Cell("small", 130_000, 400, alike)], tmp_path / "phase")
    first, second = orjson.loads((tmp_path / "phase" / "phase.json").read_bytes())["cells"]
    # `luck` is as good as `mind` on average, so it is the best baseline of both cells.
    assert [cell["compared"]["claims"]["id"]["margin"] for cell in (first, second)] == [pytest.approx(0), pytest.approx(0)]
    assert {row["arm"] for row in first["compared"]["arms"]} == {"mind", "weak", "luck"}
    assert first["size"] == "small (0.13 M)"
    page = (tmp_path / "phase" / "phase.html").read_text()
    assert page.count("<td>weak</td>") == 1
    assert page.count("<td>luck</td>") == 2
    assert all((tmp_path / "phase" / f"phase-{group}.png").read_bytes()[:4] == b"\x89PNG" for group in ("id", "ood"))
