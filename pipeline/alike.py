"""Removes near-duplicate training questions by MinHash over 3-word shingles; the first question of a near-duplicate pair is kept.

Similarity is the Jaccard similarity of the two shingle sets, estimated from 128 permutations (Broder, 1997) with a standard error of about
0.04. Locality-sensitive hashing proposes candidates and the estimate decides, so the result depends only on the questions and their order.
Memory: about 7 KiB per kept question. Questions from one template are similar even when their numbers differ, so the user sets the
threshold.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from datasketch import MinHash, MinHashLSH

from pipeline.overlap import words_of
from pipeline.questions import Question

PERMUTATIONS: Final = 128
RUN: Final = 3
"""Words of a run; questions are short, and runs of five as of rationales would miss most rewordings."""


class Alike(NamedTuple):
    """A question that was left out, the earlier one that it is like, and how much."""

    question_id: str
    kept_id: str
    similarity: float


def signature(question: Question) -> MinHash:
    """Of its normalised words, with choices."""
    words = words_of(question)
    runs = {" ".join(words[first : first + RUN]) for first in range(max(1, len(words) - RUN + 1))}
    found = MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32")
    found.update_batch([run.encode("utf-8", "surrogatepass") for run in runs])
    return found


class Staying:
    """Questions that stay."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        # Looser than asked for, because the estimate decides: one candidate too many costs time, one missed leaves a duplicate.
        self._near = MinHashLSH(threshold=0.9 * threshold, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
        self._signatures: dict[str, MinHash] = {}

    def alike(self, question: Question) -> Alike | None:
        """The earlier question that this one is most like, if it is; else it is remembered."""
        mine = signature(question)
        similar = ((self._signatures[other].jaccard(mine), other) for other in sorted(self._near.query(mine)))
        best = max(similar, default=(0.0, ""), key=lambda item: item[0])
        if best[0] >= self._threshold:
            return Alike(question.id, best[1], best[0])
        self._near.insert(question.id, mine)
        self._signatures[question.id] = mine
        return None
