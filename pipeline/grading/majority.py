"""Majority vote over several answers to one question (self-consistency: Wang et al., 2022)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.grading.grade import Outcome


def majority_is_right(outcomes: Sequence[str], answers: Sequence[str | None]) -> bool:
    """Whether the most frequent answer is correct; a tie is decided by the first answer.

    All correct answers count as the same answer, however they are written. Unparsed and truncated answers do not vote. An answer that a
    judge calls wrong does not vote either, because its value is unknown.
    """
    votes = [
        (outcome == Outcome.CORRECT, None if outcome == Outcome.CORRECT else answer)
        for outcome, answer in zip(outcomes, answers, strict=True)
        if outcome == Outcome.CORRECT or (outcome == Outcome.WRONG and answer is not None)
    ]
    return bool(votes) and Counter(votes).most_common(1)[0][0][0]
