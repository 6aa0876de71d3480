"""How different the rationales of one question are: what several perspectives are for.

Distance is 1 − Jaccard of 5-grams, as in the rule that drops near-duplicates; distinct-2 is the share of 2-grams that are not
repeated (Li et al., 2016), within one rationale, or within all of a question, where eight equal ones come to an eighth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations, pairwise

from pipeline.rationales.curation import five_grams, jaccard


def distances(rationales: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Of every pair of perspectives, in the order given."""
    grams = {name: five_grams(text) for name, text in rationales.items()}
    return {(one, other): 1 - jaccard(grams[one], grams[other]) for one, other in combinations(grams, 2)}


def distinct(texts: Iterable[Sequence[str]]) -> float | None:
    """Different 2-grams over all 2-grams of some texts as words; None where there are no two words."""
    found = list(chain.from_iterable(pairwise(text) for text in texts))
    return len(set(found)) / len(found) if found else None
