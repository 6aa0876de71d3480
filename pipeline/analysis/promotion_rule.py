"""Decides whether a candidate student replaces the incumbent, from both students' answers to identical items.

In distribution: non-inferiority. The lower end of the paired 95 % interval of candidate − incumbent must be above −margin. Out of
distribution: no significant loss. Among the sets on which the candidate is below the incumbent, none may have a p-value below alpha
(McNemar's exact test, or that of `sampled_change` for sampled answers), Holm-corrected over all out-of-distribution sets. Our choice; the
paper has no such step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.analysis.accuracy_numbers import PairedChange
from pipeline.analysis.statistics import holm
from pipeline.schema.fields import Frozen, runtime


class Policy(Frozen):
    """Limits for accepting a candidate."""

    margin: float = runtime(
        0.02, ge=0, le=1, description="accepted loss of accuracy in distribution; 0.02 is 2 percentage points"
    )
    sampled: bool = runtime(
        False,
        description="compare pass@1 over sampled answers (evaluation.draws) in place of greedy answers, for students that think",
    )
    alpha: float = runtime(0.05, gt=0, lt=1, description="significance level of a loss out of distribution, after correction")


@dataclass(frozen=True)
class Decision:
    """The decision, its reasons and the figures it is based on."""

    promote: bool
    reasons: list[str]
    figures: dict[str, Any]


def _points(change: PairedChange) -> str:
    return f"{change.change * 100:+.1f} points [{change.low * 100:+.1f}, {change.high * 100:+.1f}]"


def decide(changes: Mapping[str, PairedChange], ood_sets: Sequence[str], policy: Policy) -> Decision:
    """Decides from the changes candidate − incumbent by key (`group:id`, `set:NAME`): change, low, high, p."""
    reasons: list[str] = []
    promote = True
    if "group:id" in changes:
        change = changes["group:id"]
        good = change.low > -policy.margin
        promote = promote and good
        word = "not worse" if good else "may be worse"
        reasons.append(f"In distribution {word}: {_points(change)}, margin {policy.margin * 100:.1f}.")
    corrected = dict(zip(ood_sets, holm([changes[f"set:{name}"].p for name in ood_sets]), strict=True))
    lost = [name for name in ood_sets if changes[f"set:{name}"].change < 0 and corrected[name] < policy.alpha]
    reasons += [f"Worse on {name}: {_points(changes[f'set:{name}'])}, corrected p = {corrected[name]:.2g}." for name in lost]
    if ood_sets and not lost:
        reasons.append(f"Not significantly worse on any of {len(ood_sets)} out-of-distribution sets.")
    return Decision(
        promote and not lost,
        reasons,
        {"changes": {key: change.model_dump() for key, change in changes.items()}, "corrected_p": corrected},
    )
