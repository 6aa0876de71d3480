"""Selects the training rationales from graded samples.

Rules, in order: a correct sample is rewritten to end in the one answer sentence, without the thoughts of a thinking model; the first
correct sample per question and perspective is kept; of two near-duplicates (5-gram Jaccard) the later one counts as missing; easy questions
are subsampled; questions with too few perspectives are dropped. Every count is recorded, so the token ledger is complete. All rules are our
choices (method, section 1).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.grading.wording.thoughts import behind_thoughts
from pipeline.rationales.conclusion import with_answer_sentence, without_answer_statement

SAMPLE: Final = ["question_id", "perspective", "sample_index", "outcome", "answer", "text", "gold", "finish_reason"]
"""Columns of a sample that the selection rules read."""
_TOKEN: Final = re.compile(r"\w+|[^\w\s]")


def without_thoughts(text: str) -> str:
    """A sample without its thoughts, whose start may be in the prompt."""
    said = behind_thoughts(text)
    return text if said == text else said.lstrip()


def reasoning(text: str, thoughts: str = "drop") -> str:
    """A sample's text before its answer statement, including its thoughts if they are kept."""
    return without_answer_statement(without_thoughts(text) if thoughts == "drop" else text)


def words(text: str) -> list[str]:
    """Words and punctuation marks in lower case."""
    return _TOKEN.findall(text.casefold())


def five_grams(text: str) -> frozenset[tuple[str, ...]]:
    """The set of 5-grams of words and punctuation; a shorter text is a single gram of its own length."""
    tokens = words(text)
    if len(tokens) < 5:
        return frozenset([tuple(tokens)])
    return frozenset(tuple(tokens[start : start + 5]) for start in range(len(tokens) - 4))


def jaccard(left: frozenset[tuple[str, ...]], right: frozenset[tuple[str, ...]]) -> float:
    """Size of the intersection over size of the union."""
    return len(left & right) / len(left | right)


def drop_duplicates(rationales: Mapping[str, str], threshold: float) -> dict[str, str]:
    """Keeps the first of near-duplicate rationales (by perspective, in order)."""
    kept: dict[str, str] = {}
    grams: list[frozenset[tuple[str, ...]]] = []
    for perspective, rationale in rationales.items():
        candidate = five_grams(without_answer_statement(rationale))
        if all(jaccard(candidate, other) <= threshold for other in grams):
            kept[perspective] = rationale
            grams.append(candidate)
    return kept


def keep_easy_question(question_id: str, seed: int, share: float) -> bool:
    """Whether an easy question is in the kept `share`; depends only on its id and the seed."""
    digest = hashlib.sha256(f"easy/{seed}/{question_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def place(question_id: str, seed: int) -> bytes:
    """Sort key for limiting the number of questions: the smallest keys are kept. Depends only on the question's id and the seed."""
    return hashlib.sha256(f"stay/{seed}/{question_id}".encode()).digest()


@dataclass(frozen=True)
class PerspectiveSet:
    """The kept rationales of one question, by perspective."""

    question_id: str
    rationales: dict[str, str]


@dataclass(frozen=True)
class Curation:
    """The selected rationales, and the number dropped by each rule."""

    sets: list[PerspectiveSet]
    counts: dict[str, int]


def curate(
    right: Mapping[str, Mapping[str, str]],
    pass_rates: Mapping[str, float | None],
    *,
    duplicate_jaccard: float,
    min_perspectives: int,
    easy_above: float,
    keep_easy: float,
    last: bytes | None,
    seed: int,
) -> Curation:
    """Selects questions and rationales.

    Args:
        right: question id -> perspective -> a correct rationale, ending in the answer sentence.
        pass_rates: question id -> share of the base student's attempts that were correct; None without attempts: no question is easy.
        last: the largest `place` that is kept; None for no limit.
    """
    fallen = ("near_duplicates", "too_few_perspectives", "easy_left_out", "over_max_questions")
    counts = {"questions": len(pass_rates), **dict.fromkeys(fallen, 0)}
    sets = []
    for question_id, rate in pass_rates.items():
        found = right.get(question_id, {})
        kept = drop_duplicates(found, duplicate_jaccard)
        counts["near_duplicates"] += len(found) - len(kept)
        if len(kept) < min_perspectives:
            counts["too_few_perspectives"] += 1
        elif rate is not None and rate > easy_above and not keep_easy_question(question_id, seed, keep_easy):
            counts["easy_left_out"] += 1
        elif last is not None and place(question_id, seed) > last:
            counts["over_max_questions"] += 1
        else:
            sets.append(PerspectiveSet(question_id, kept))
    counts["kept_questions"] = len(sets)
    counts["kept_rationales"] = sum(len(item.rationales) for item in sets)
    return Curation(sets, counts)


def first_right(
    samples: Iterable[Mapping[str, object]], order: Sequence[str], thoughts: str = "drop"
) -> dict[str, dict[str, str]]:
    """question id -> perspective (in `order`) -> the correct, complete sample with the lowest index, ending in the answer sentence."""
    best: dict[str, dict[str, tuple[int, str]]] = {}
    for sample in samples:
        if sample["outcome"] != "correct" or sample.get("finish_reason", "stop") == "length":
            continue  # a text that was cut off does not conclude, even if it boxed its answer before
        said = str(sample["text"])
        text = with_answer_sentence(without_thoughts(said) if thoughts == "drop" else said, str(sample["gold"]))
        if text is None:
            continue
        mine = best.setdefault(str(sample["question_id"]), {})
        perspective, index = str(sample["perspective"]), int(str(sample["sample_index"]))
        if perspective not in mine or index < mine[perspective][0]:
            mine[perspective] = (index, text)
    return {question_id: {name: found[name][1] for name in order if name in found} for question_id, found in best.items()}
