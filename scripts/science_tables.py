"""Prints the tables of docs/science.md from the results of `mind bench science`: python -m scripts.science_tables FILE.

FILE is the experiment's `arms.json`. All figures are per cent or points; a difference has its 95 % interval for other seeds and other
items, and its p-value with Holm's correction over the arms.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.analysis.statistics import detectable_difference

GROUPS: Final = ("id", "ood")
SEEDS: Final = (2, 3, 5, 10, 20)
_MINUS: Final = str.maketrans("-", "−")


def _points(value: float, signed: bool = False) -> str:
    return f"{100 * value:{'+' if signed else ''}.1f}".translate(_MINUS)


def _p(value: float) -> str:
    return "<10⁻⁴" if value < 1e-4 else f"{value:.2g}"


def _change(cell: Mapping[str, Any]) -> tuple[str, str]:
    """The change against the reference arm with its interval, and its corrected p; empty for that arm itself."""
    other = cell["against"]
    if other is None:
        return "", ""
    low, high = (_points(other[end], signed=True) for end in ("low", "high"))
    return f"{_points(other['change'], signed=True)} [{low}, {high}]", _p(other["p_holm"])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def arms_table(found: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Every arm with accuracies, differences, detectable differences and cost."""
    against = found["against"]
    yield _row(["arm", "in", f"arm − `{against}`", "p", "out", f"arm − `{against}`", "p", "kept", "tokens", "s"])
    yield "|---" * 10 + "|"
    yield _row(["base", *(cell for group in GROUPS for cell in (_points(found["base"][group]), "", "")), "", "", ""])
    for arm in arms:
        cells = [f"`{arm['arm']}`"]
        for group in GROUPS:
            spread = f" ± {_points(arm[group]['spread'])}" if len(arm["seeds"]) > 1 else ""
            cells += [f"{_points(arm[group]['mean'])}{spread}", *_change(arm[group])]
        yield _row([*cells, f"{arm['kept']:.1f}", f"{arm['tokens'] / 1000:.0f}k", f"{arm['seconds_training']:.0f}"])


def sets_table(found: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Every arm's accuracy on each set."""
    names = [name for group in GROUPS for name in found["sets"][group]]
    yield _row(["arm", *names])
    yield "|---" * (len(names) + 1) + "|"
    for name, sets in [("base", found["base"]["sets"]), *((f"`{arm['arm']}`", arm["sets"]) for arm in arms)]:
        yield _row([name, *(f"{100 * sets[one]:.0f}" for one in names)])


def seeds_table(arms: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Every seed's accuracies, and the differences that the comparison would find with 80 % power."""
    yield _row(["arm", "in, by seed", "out, by seed", "detectable in / out"])
    yield "|---" * 4 + "|"
    for arm in arms:
        each = [" ".join(_points(value) for value in arm[group]["each"]) for group in GROUPS]
        others = [arm[group]["against"] for group in GROUPS]
        found = ["" if other is None or other["detectable"] is None else _points(other["detectable"]) for other in others]
        yield _row([f"`{arm['arm']}`", *each, " / ".join(found) if all(found) else ""])


def power_table() -> Iterator[str]:
    """The smallest true difference that a comparison finds with 80 % power, for some variations of items and seeds."""
    yield _row(["items that change", "spread", *(f"{seeds} seeds" for seeds in SEEDS)])
    yield "|---" * (2 + len(SEEDS)) + "|"
    for share, items, spread in ((0.10, 1000, 1), (0.10, 1000, 2), (0.15, 1200, 2), (0.15, 1200, 5), (0.15, 1200, 10)):
        found = [100 * detectable_difference(share, items, spread / 100, seeds) for seeds in SEEDS]
        values = ["none" if value > 100 else f"{value:.1f}" for value in found]
        yield _row([f"{100 * share:.0f} % of {items:,}", str(spread), *values])


def main() -> None:
    """Print all tables and the paper's claims."""
    found = json.loads(Path(sys.argv[1]).read_text())
    arms = sorted(found["arms"], key=lambda arm: -arm["id"]["mean"])
    for table in (arms_table(found, arms), sets_table(found, arms), seeds_table(arms), power_table()):
        print(*table, "", sep="\n")
    if found["claims"] is not None:
        for group in GROUPS:
            claim = found["claims"][group]
            low, high = _points(claim["low"]), _points(claim["high"])
            print(f"{group}: ahead of `{claim['best']}` by {_points(claim['margin'])} [{low}, {high}]")
        for name, lost in found["claims"]["forgetting"].items():
            print(f"forgotten by {name}: {_points(lost)}")


if __name__ == "__main__":
    main()
