"""Measures the diversity of one question's rationales across perspectives.

Distance is 1 − Jaccard of 5-grams, as in the near-duplicate rule. distinct-2 is the share of distinct 2-grams (Li et al., 2016), within one
rationale or over all rationales of a question; eight identical rationales give one eighth of the value of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations, pairwise

from pipeline.rationales.curation import five_grams, jaccard


def distances(rationales: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Distance of every pair of perspectives, in the given order."""
    grams = {name: five_grams(text) for name, text in rationales.items()}
    return {(one, other): 1 - jaccard(grams[one], grams[other]) for one, other in combinations(grams, 2)}


def distinct(texts: Iterable[Sequence[str]]) -> float | None:
    """Distinct 2-grams over all 2-grams of tokenised texts; None if there are no 2-grams."""
    found = list(chain.from_iterable(pairwise(text) for text in texts))
    return len(set(found)) / len(found) if found else None
