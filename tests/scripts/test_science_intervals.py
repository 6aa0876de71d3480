"""The tables of docs/science.md have the intervals that the recorded results of every seed give."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from scripts.science_intervals import GROUPS, RESULTS, bound, cells, compared, main, two_seeds

RECORDED: dict[str, Any] = json.loads(RESULTS.read_text())
ITEMS: dict[str, int] = RECORDED["items"]
PAGE = RESULTS.with_name("science.md").read_text()


@pytest.mark.parametrize("name", RECORDED["runs"])
def test_every_interval_of_the_page_is_the_recomputed_one(name: str) -> None:
    for arm, both in cells(RECORDED["runs"][name], "mind", ITEMS).items():
        rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{arm}` |")]
        assert any(all(f"| {both[group]} |" in row for group in GROUPS) for row in rows), (name, arm, both)


@pytest.mark.parametrize("name", RECORDED["runs"])
def test_every_seed_is_recorded_and_on_the_page(name: str) -> None:
    for arm, both in RECORDED["runs"][name]["arms"].items():
        seeds = {group: " ".join(f"{value:.1f}" for value in both[group]) for group in GROUPS}
        assert f"| {seeds['id']} | {seeds['ood']} |" in PAGE, arm


def test_the_new_intervals_are_never_narrower_than_the_bootstrap_ones() -> None:
    for run in RECORDED["runs"].values():
        for group in GROUPS:
            for row in compared(run, "mind", group, ITEMS[group]):
                low, high = run["bootstrap"]["mind"][row.arm][group]
                assert row.change.high - row.change.low > high - low - 0.1


def test_two_seeds_that_agree_are_significant_and_others_are_not() -> None:
    agree = two_seeds({"mind": 60.0, "margin": 20.0, "bootstrap": [17.0, 23.0]}, 400)
    assert agree.least == 0
    assert agree.narrowest.low == pytest.approx(17, abs=0.01)
    assert 0 < agree.limit < agree.most
    apart = two_seeds({"mind": 60.0, "margin": 8.0, "bootstrap": [0.0, 16.0]}, 100_000)
    assert apart.least == pytest.approx(apart.most, abs=0.1)
    assert apart.limit < apart.least
    assert apart.narrowest.low < 0 < apart.narrowest.high


def test_the_binomial_bound_is_the_variance_of_independent_answers() -> None:
    rng = np.random.default_rng(0)
    differences = [100 * ((rng.random(200) < 0.7).mean() - (rng.random(200) < 0.4).mean()) for _ in range(4000)]
    assert bound(70.0, 40.0, 200) == pytest.approx(np.var(differences), rel=0.08)


def test_the_command_prints_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    shown = capsys.readouterr().out
    power = [line for line in shown.splitlines() if line.startswith("| 10 % of") or line.startswith("| 15 % of")]
    assert len(power) == 5
    assert all(line in PAGE for line in power)
