"""Detects contamination: training questions that equal an evaluated question or share a long run of words with one.

Words are those of the normalised question with its choices. GPT-3's authors, and most papers after them, use a shared passage of 13 words
(Brown et al., 2020, appendix C). Questions from one template share meaningless passages, so the user sets the length. Memory: one 64-bit
hash per passage of the evaluated questions, and the names of those questions.

Axes: P passages of all evaluated questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.questions.question import Question
from pipeline.text_digests import digest

Numbers = NDArray[np.uint64]


class Evaluated(NamedTuple):
    """An evaluated question, as named in a report."""

    set: str
    id: str


class Contaminated(NamedTuple):
    """A dropped training question, the evaluated question that caused it, and the shared part: id, wording or passage."""

    question_id: str
    reason: Literal["id", "wording", "passage"]
    set: str
    evaluated_id: str
    passage: str | None = None


def identity_digests(question: Question) -> tuple[int, int]:
    """Digests of a question's id and wording; two questions are the same if either is equal."""
    return digest(f"id\0{question.id}"), digest("\0".join(("wording", *question.wording)))


def same_as(question: Question, evaluated: Mapping[int, Evaluated]) -> Contaminated | None:
    """The evaluated question that equals a training question, if any; `evaluated` maps the digests of `identity_digests`."""
    by_id, by_wording = (evaluated.get(key) for key in identity_digests(question))
    if by_id is not None:
        return Contaminated(question.id, "id", *by_id)
    return None if by_wording is None else Contaminated(question.id, "wording", *by_wording)


def words_of(question: Question) -> list[str]:
    """The question's normalised words, followed by those of its choices."""
    return " ".join(question.wording).split()


def _number(words: list[str]) -> int:
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def passages(words: list[str], length: int) -> Numbers:
    """A 64-bit hash for every passage of `length` words; empty for a shorter text."""
    return np.array([_number(words[first : first + length]) for first in range(len(words) - length + 1)], np.uint64)


class Passages(NamedTuple):
    """All passage hashes of the evaluated questions in ascending order, and the question that each comes from."""

    numbers_P: Numbers
    owner_P: NDArray[np.int32]
    owners: list[Evaluated]
    length: int


def collect(questions: Iterable[tuple[Evaluated, Numbers]], length: int) -> Passages:
    """Sorts the passages of many questions."""
    owners, found = [], [np.empty(0, np.uint64)]
    sizes: list[int] = []
    for name, numbers in questions:
        owners.append(name)
        found.append(numbers)
        sizes.append(len(numbers))
    numbers_P = np.concatenate(found)
    order = np.argsort(numbers_P, kind="stable")
    return Passages(numbers_P[order], np.repeat(np.arange(len(owners), dtype=np.int32), sizes)[order], owners, length)


def overlap(question: Question, known: Passages) -> Contaminated | None:
    """The first passage that a question shares with an evaluated question, and the first evaluated question that has it."""
    words = words_of(question)
    mine = passages(words, known.length)
    places = np.searchsorted(known.numbers_P, mine)
    inside = places < len(known.numbers_P)
    shared = np.zeros(len(mine), np.bool_)
    shared[inside] = known.numbers_P[places[inside]] == mine[inside]
    if not shared.any():
        return None
    first = int(shared.argmax())
    owner = known.owners[int(known.owner_P[places[first]])]
    return Contaminated(question.id, "passage", *owner, " ".join(words[first : first + known.length]))
