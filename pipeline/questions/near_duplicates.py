"""Removes near-duplicate training questions by MinHash over 3-word shingles; the first question of a near-duplicate pair is kept.

Similarity is the Jaccard similarity of the two shingle sets, estimated from 128 permutations (Broder, 1997) with a standard error of about
0.04. Locality-sensitive hashing proposes candidates and the estimate decides, so the result depends only on the questions and their order.
Memory: about 7 KiB per kept question. Questions from one template are similar even when their numbers differ, so the user sets the
threshold.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from datasketch import MinHash, MinHashLSH

from pipeline.questions.contamination import words_of
from pipeline.questions.question import Question

PERMUTATIONS: Final = 128
SHINGLE_WORDS: Final = 3
"""Words per shingle. Questions are short; shingles of five words, as used for rationales, would miss most rewordings."""


class NearDuplicate(NamedTuple):
    """A dropped question, the earlier question that it duplicates, and their similarity."""

    question_id: str
    kept_id: str
    similarity: float


def signature(question: Question) -> MinHash:
    """MinHash signature of the question's normalised words, including choices."""
    words = words_of(question)
    runs = {" ".join(words[first : first + SHINGLE_WORDS]) for first in range(max(1, len(words) - SHINGLE_WORDS + 1))}
    found = MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32")
    found.update_batch([run.encode("utf-8", "surrogatepass") for run in runs])
    return found


class KeptQuestions:
    """The kept questions, searchable by similarity."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        # Below the requested threshold, because the estimate decides: an extra candidate costs time, a missed one leaves a duplicate.
        self._near = MinHashLSH(threshold=0.9 * threshold, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
        self._signatures: dict[str, MinHash] = {}

    def alike(self, question: Question) -> NearDuplicate | None:
        """The most similar kept question if it reaches the threshold; otherwise None, and this question is added to the kept ones."""
        mine = signature(question)
        similar = ((self._signatures[other].jaccard(mine), other) for other in sorted(self._near.query(mine)))
        best = max(similar, default=(0.0, ""), key=lambda item: item[0])
        if best[0] >= self._threshold:
            return NearDuplicate(question.id, best[1], best[0])
        self._near.insert(question.id, mine)
        self._signatures[question.id] = mine
        return None
