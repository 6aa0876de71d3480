"""Prints the intervals of docs/science.md from the recorded results of every seed, docs/science-results.json.

The answers to single questions were not kept, so the items' part of a variance cannot be measured again. What was kept beside the
accuracies of the seeds is the 95 % interval that a bootstrap over seeds and items gave. Its variance is (width/3.92)², and the seeds' part
of it is known: (S − 1)/S of V_S in `pipeline/analysis/statistics.py`. The rest is the items' part, and a little more, so the intervals here
err towards wide. If the seeds' part is more than half, the rest would be a small difference of two large numbers; then the binomial bound
replaces it, (p(1 − p) + q(1 − q))/N of two accuracies, which holds unless items that are hard for one arm are easy for the other. Such rows
have a star.

    python -m scripts.science_intervals
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.analysis.statistics import Interval, detectable_difference, holm, interval_from_parts

RESULTS: Final = Path(__file__).parents[1] / "docs" / "science-results.json"
GROUPS: Final = ("id", "ood")
_SIGMAS: Final = 2 * 1.959964
_T1: Final = 12.7062


class Row(NamedTuple):
    """An arm − the reference in points, with its p-value, and what went into it."""

    arm: str
    change: Interval
    p: float
    bounded: bool
    items_variance: float
    seeds_spread: float


def bound(one: float, other: float, items: int) -> float:
    """The binomial bound of the items' variance of a difference between two accuracies in per cent."""
    return (one * (100 - one) + other * (100 - other)) / items


def compared(run: Mapping[str, Any], against: str, group: str, items: int) -> Iterator[Row]:
    """Every arm with a recorded bootstrap interval against `against`."""
    arms, recorded = run["arms"], run["bootstrap"][against]
    for arm, ends in recorded.items():
        if group not in ends:
            continue
        after_S, before_S = np.array(arms[arm][group]), np.array(arms[against][group])
        change_S = after_S - before_S
        seeds = len(change_S)
        whole = ((ends[group][1] - ends[group][0]) / _SIGMAS) ** 2
        of_seeds = float(change_S.var()) / seeds
        bounded = of_seeds > whole / 2
        of_items = bound(float(after_S.mean()), float(before_S.mean()), items) if bounded else whole - of_seeds
        tested = interval_from_parts([float(value) for value in change_S], of_items, items)
        yield Row(arm, tested.interval, tested.p, bounded, of_items, float(change_S.std(ddof=1)))


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def in_points(interval: Interval) -> str:
    """A change with its interval, in points."""
    return f"{_signed(interval.value)} [{_signed(interval.low)}, {_signed(interval.high)}]"


def _p(value: float) -> str:
    return "<10⁻⁴" if value < 1e-4 else f"{value:.2g}"


def cells(run: Mapping[str, Any], against: str, items: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """By arm and group: the change with its interval and Holm-corrected p-value, as in the tables of docs/science.md."""
    found: dict[str, dict[str, str]] = {}
    for group in GROUPS:
        rows = list(compared(run, against, group, items[group]))
        for row, corrected in zip(rows, holm([row.p for row in rows]), strict=True):
            star = "*" if row.bounded else ""
            found.setdefault(row.arm, {})[group] = f"{in_points(row.change)}{star} | {_p(corrected)}"
    return found


class TwoSeeds(NamedTuple):
    """What two seeds whose single results are lost can say about a margin, in points.

    `narrowest` is the narrowest interval that the record allows. The seeds' two margins differ by `least` to `most`; the interval excludes
    zero if they differ by less than `limit`, which is 0 if it never does.
    """

    narrowest: Interval
    least: float
    most: float
    limit: float


def two_seeds(cell: Mapping[str, Any], items: int) -> TwoSeeds:
    """Splits a recorded bootstrap interval of two seeds in every possible way.

    Two margins that differ by d give a bootstrap over seeds and items d²/8 of its variance; the new interval counts d²/4 with t = 12.7.
    """
    margin, (low, high) = cell["margin"], cell["bootstrap"]
    whole = ((high - low) / _SIGMAS) ** 2
    least = max(0.0, whole - bound(cell["mind"], cell["mind"] - margin, items))
    half = math.sqrt(2 * _T1**2 * least + (_SIGMAS / 2) ** 2 * (whole - least))
    limit = max(0.0, (margin**2 - (_SIGMAS / 2) ** 2 * whole) / (2 * _T1**2 - (_SIGMAS / 2) ** 2))
    spreads = (math.sqrt(8 * part) for part in (least, whole, limit))
    return TwoSeeds(Interval(margin, margin - half, margin + half), *spreads)


def main() -> None:
    """Print all tables."""
    found = json.loads(RESULTS.read_text())
    items = found["items"]
    for name, run in found["runs"].items():
        for against in run["bootstrap"]:
            print(f"{name}: arm − {against}, in points; p with Holm's correction\n")
            for arm, both in cells(run, against, items).items():
                print(f"| `{arm}` | " + " | ".join(both.get(group, "") for group in GROUPS) + " |")
            print()
    print("students by questions, two seeds: narrowest possible interval; seeds' margins differ by; significant below\n")
    for cell in found["students by questions"]:
        for group in GROUPS:
            said = two_seeds(cell[group], items[group])
            print(
                f"| {cell['student']} | {cell['questions']} | {group} | {in_points(said.narrowest)} | "
                f"{said.least:.1f} to {said.most:.1f} | {said.limit:.1f} |"
            )
    print(
        "\nsmallest difference found with 80 % power, points: items' part, standard deviation over seeds, and 2, 3, 5, 10, 20 seeds\n"
    )
    for discordance, size, spread in (
        (0.10, 1000, 1.0),
        (0.10, 1000, 2.0),
        (0.15, 1200, 2.0),
        (0.15, 1200, 5.0),
        (0.15, 1200, 10.0),
    ):
        found_S = [100 * detectable_difference(discordance, size, spread / 100, seeds) for seeds in (2, 3, 5, 10, 20)]
        shown = " | ".join("none" if value > 100 else f"{value:.1f}" for value in found_S)
        print(f"| {discordance * 100:.0f} % of {size:,} | {spread:.0f} | {shown} |")
    rows = {
        (name, group): list(compared(run, "mind", group, items[group]))
        for name, run in found["runs"].items()
        for group in GROUPS
    }
    print()
    for (name, group), several in rows.items():
        values = [
            detectable_difference(row.items_variance * items[group] / 1e4, items[group], row.seeds_spread / 100, 5) * 100
            for row in several
        ]
        print(f"{name}, {group}: detectable {min(values):.1f} to {max(values):.1f} points, median {np.median(values):.1f}")
        print("  " + ", ".join(f"{row.arm} {value:.1f}" for row, value in zip(several, values, strict=True)))


if __name__ == "__main__":
    main()
