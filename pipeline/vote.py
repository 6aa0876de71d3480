"""Majority vote over several answers to one question (self-consistency: Wang et al., 2022)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.grading import Outcome


def majority_is_right(outcomes: Sequence[str], answers: Sequence[str | None]) -> bool:
    """Whether the most frequent answer is right; of equally frequent ones the first counts.

    Right answers are one answer, however they are written. What could not be read, or was cut off, has no vote; nor has what a judge calls
    wrong, of which nobody knows which answer it is.
    """
    votes = [
        (outcome == Outcome.CORRECT, None if outcome == Outcome.CORRECT else answer)
        for outcome, answer in zip(outcomes, answers, strict=True)
        if outcome == Outcome.CORRECT or (outcome == Outcome.WRONG and answer is not None)
    ]
    return bool(votes) and Counter(votes).most_common(1)[0][0][0]
