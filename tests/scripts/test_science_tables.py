"""docs/science.md has every row that the recorded results give, and states its claims with their figures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.science_tables import arms_table, power_table, seeds_table, sets_table
from tests.support.runs import REPOSITORY

PAGE = (REPOSITORY / "docs" / "science.md").read_text()
RECORDED: dict[str, Any] = json.loads((REPOSITORY / "docs" / "science-results.json").read_text())
ARMS = sorted(RECORDED["arms"], key=lambda arm: -arm["id"]["mean"])


@pytest.mark.parametrize(
    "table",
    [arms_table(RECORDED, ARMS), sets_table(RECORDED, ARMS), seeds_table(ARMS), power_table()],
    ids=["arms", "sets", "seeds", "power"],
)
def test_every_row_of_the_recorded_results_is_on_the_page(table: Any) -> None:
    assert "\n".join(table) in PAGE


def test_every_arm_was_run_with_five_seeds() -> None:
    assert {len(arm["seeds"]) for arm in ARMS} == {5}
    assert len(ARMS) == 28


@pytest.mark.parametrize("group", ["id", "ood"])
def test_the_claim_of_the_page_and_the_readme_is_the_recorded_one(group: str) -> None:
    claim = RECORDED["claims"][group]
    stated = f"{100 * claim['margin']:.1f} [{100 * claim['low']:.1f}, {100 * claim['high']:.1f}]"
    assert stated in PAGE.replace("points ", "").replace("points\n", "")
    assert stated in (REPOSITORY / "README.md").read_text().replace("points ", "").replace("points\n", "")
