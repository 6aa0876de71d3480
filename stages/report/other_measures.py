"""What the report says about measures other than the zero-shot greedy answers: titles, sentences, and which losses are certain."""

from __future__ import annotations

from typing import Final

from stages.core.summaries import EvaluationSummary
from stages.shared.further_measurements import CHOSEN, TITLES

_GROUPS: Final = {"id": "in distribution", "ood": "out of distribution"}
_STATED: Final = (CHOSEN, "few_shot", f"few_shot_{CHOSEN}")
"""The measures with a sentence of their own."""


def titles(evaluation: EvaluationSummary) -> dict[str, str]:
    """The title of every measure that was taken."""
    return {name: TITLES[name] for name in evaluation.further or {}}


def certain_losses(evaluation: EvaluationSummary) -> dict[tuple[str, str], bool]:
    """Whether the change on a set is beyond chance, by measure (empty for the greedy answers) and out-of-distribution set."""
    every = {"": evaluation.student_against_base} | {
        name: found.student_against_base for name, found in (evaluation.further or {}).items()
    }
    return {
        (name, set_name): changes[f"set:{set_name}"].is_certain
        for name, changes in every.items()
        for set_name in evaluation.forgetting
        if f"set:{set_name}" in changes
    }


def other_findings(evaluation: EvaluationSummary) -> list[str]:
    """One sentence for each stated measure and group; what was lost beyond chance; which models could not be scored."""
    said = []
    for name in _STATED:
        found = (evaluation.further or {}).get(name)
        if found is None:
            continue
        measured = f"Measured by {TITLES[name]}," if name == CHOSEN else f"Measured {TITLES[name]},"
        for group, where in _GROUPS.items():
            change = found.student_against_base.get(f"group:{group}")
            if change is None:
                continue
            words = "not distinguishable from its base"
            if change.is_certain:
                words = "better than its base" if change.change > 0 else "WORSE than its base"
            said.append(
                f"{measured} the student is {words} {where}: {change.change * 100:+.1f} points "
                f"(95 % interval {change.low * 100:+.1f} to {change.high * 100:+.1f}, McNemar p = {change.p:.2g})."
            )
        said += [
            f"{measured} forgetting on {set_name}: {lost * 100:.1f} points lost."
            for set_name, lost in found.forgetting.items()
            if lost > 0 and found.student_against_base[f"set:{set_name}"].is_certain
        ]
    scored = (evaluation.further or {}).get(CHOSEN)
    if scored is not None:
        said += [
            f"The {model} has no likelihoods: it is served, or spread over several GPUs."
            for model in evaluation.accuracy
            if model not in scored.accuracy
        ]
    return said
