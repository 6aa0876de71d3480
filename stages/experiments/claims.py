"""Compares the results of an experiment with the paper's claims.

The paper reports margins over the best baseline. The best baseline is therefore chosen here too, separately for each group, by its results
on the reported items themselves; this favours the baseline. Forgetting is the out-of-distribution accuracy that a student loses against its
own undistilled base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.baselines_and_ablations import SPECIALIST

PUBLISHED: Final = {"id": 0.0327, "ood": 0.0753}
"""The paper's mean margins over its best baseline, in and out of distribution, as fractions."""

ResultRow = Mapping[str, Any]


def _mean(rows: Sequence[ResultRow], group: str) -> float:
    return float(sum(row[group]["mean"] for row in rows)) / len(rows)


def margin(rows: Sequence[ResultRow], group: str) -> dict[str, Any]:
    """The reference arm's margin over the best baseline of a group, with its 95 % interval."""
    best = max(rows, key=lambda row: row[group]["mean"])
    other = best[group]["against"]
    return {
        "best": best["arm"],
        "margin": -other["change"],
        "low": -other["high"],
        "high": -other["low"],
        "published": PUBLISHED[group],
    }


def in_points(cell: Mapping[str, Any]) -> str:
    """A cell of the table: mean in per cent, standard deviation over seeds, and change against the reference arm with its interval."""
    other, spread = cell["against"], f" ±{cell['spread'] * 100:.1f}" if len(cell["each"]) > 1 else ""
    change = f"  {other['change'] * 100:+.1f} [{other['low'] * 100:+.1f}, {other['high'] * 100:+.1f}]" if other else ""
    return f"{cell['mean'] * 100:.1f}{spread}{change}"


def claims(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Margins over the best baseline by group, specialists' means, and forgetting; None without a non-baseline reference and a baseline."""
    first = next(row for row in found["arms"] if row["arm"] == found["against"])
    baselines = [row for row in found["arms"] if row["kind"] == "baseline" and row["id"]["against"] is not None]
    if first["kind"] == "baseline" or not baselines:
        return None
    singles = [row for row in baselines if row["arm"].startswith(SPECIALIST)]
    base = found["base"]["ood"]
    return {
        "arm": first["arm"],
        **{group: margin(baselines, group) for group in PUBLISHED},
        "singles": {group: _mean(singles, group) for group in PUBLISHED} if singles else None,
        "forgetting": {
            first["arm"]: base - first["ood"]["mean"],
            **({"specialists' mean": base - _mean(singles, "ood")} if singles else {}),
            **{row["arm"]: base - row["ood"]["mean"] for row in sorted(singles, key=lambda row: -row["ood"]["mean"])[:1]},
        },
    }
