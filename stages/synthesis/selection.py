"""Selects the rationales of one shard of samples that are kept.

A shard has all samples of its questions, and every rule concerns one question at a time. Correct samples that fit the student's maximum
length pass through the rules of `pipeline/rationales/curation.py`, are fitted to the student's chat template, and are tokenised exactly as
for training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from pipeline.config.models import Turns
from pipeline.config.synthesis import Synthesis
from pipeline.grading.grade import Outcome
from pipeline.grading.majority import majority_is_right
from pipeline.model_thoughts import ThoughtForm
from pipeline.perspectives.perspective import Perspective
from pipeline.prompt_rendering import prompt_tokens, rationale_tokens
from pipeline.rationales.curation import curate, first_right, reasoning
from pipeline.rationales.thoughts import fitted
from pipeline.student.batch import TokenRow
from pipeline.training.training_set import make_row
from stages.synthesis.question_index import IndexedQuestion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Kept(NamedTuple):
    """One kept rationale: its question and perspective, its tokens, and its text."""

    question_id: str
    perspective: str
    row: TokenRow
    prompt: str
    text: str
    answer: str


class Student(NamedTuple):
    """The student's tokenizer, the turns of its dialogue, its maximum number of tokens per row, and what it does about thoughts."""

    tokenizer: PreTrainedTokenizerBase
    turns: Turns | None
    max_length: int
    thoughts: ThoughtForm

    def prompt(self, asked: IndexedQuestion) -> list[int]:
        return prompt_tokens(self.tokenizer, asked.prompt, self.turns)


def select(
    samples: pa.Table,
    asked: Mapping[str, IndexedQuestion],
    perspectives: Sequence[Perspective],
    student: Student,
    settings: Synthesis,
    last: bytes | None,
    seed: int,
) -> tuple[list[Kept], dict[str, int]]:
    """Kept rationales of one shard (columns `SAMPLE`), by question and perspective, and the number dropped by each rule.

    `last` is the largest `place` that a question may have; None for no limit.
    """
    answered: list[dict[str, Any]] = samples.to_pylist()
    every = [row for row in answered if row["outcome"] == Outcome.CORRECT]
    rows = every if settings.majority is None else _agreed(every, answered)
    formed = _of_the_asked_form(rows, perspectives, settings)
    right = first_right(formed, [item.name for item in perspectives], settings.thoughts)
    prompts = {question_id: student.prompt(asked[question_id]) for question_id in right}
    too_long = _drop_too_long(right, prompts, student)
    curation = curate(
        right,
        {question_id: item.pass_rate for question_id, item in asked.items()},
        duplicate_jaccard=settings.duplicate_jaccard,
        min_perspectives=settings.min_perspectives,
        easy_above=settings.easy_above,
        keep_easy=settings.keep_easy,
        last=last,
        seed=seed,
    )
    kept = [
        _kept(item.question_id, name, text, prompts[item.question_id], asked[item.question_id], student)
        for item in curation.sets
        for name, text in item.rationales.items()
    ]
    tokens = sum(len(item.row.tokens) - item.row.start for item in kept)
    passed_over = {"against_majority": len(every) - len(rows), "wrong_form": len(rows) - len(formed), "too_long": too_long}
    return kept, {**curation.counts, **passed_over, "tokens_kept": tokens}


def _agreed(rows: list[dict[str, Any]], answered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Correct samples of questions whose majority answer is correct."""
    votes: dict[str, list[dict[str, Any]]] = {}
    for row in answered:
        votes.setdefault(row["question_id"], []).append(row)
    agreed = {
        question_id: majority_is_right([row["outcome"] for row in found], [row["answer"] for row in found])
        for question_id, found in votes.items()
    }
    return [row for row in rows if agreed[row["question_id"]]]


def _of_the_asked_form(
    rows: list[dict[str, Any]], perspectives: Sequence[Perspective], settings: Synthesis
) -> list[dict[str, Any]]:
    """Samples that have the form required for their perspective, if one is required."""
    if settings.form == "report":
        return rows
    required = {item.name: item.form for item in perspectives}

    def fits(row: dict[str, Any]) -> bool:
        form = required[row["perspective"]]
        return form is None or form.fits(reasoning(row["text"], settings.thoughts))

    return [row for row in rows if fits(row)]


def _drop_too_long(right: dict[str, dict[str, str]], prompts: Mapping[str, list[int]], student: Student) -> int:
    """Remove rationales that are too long to train on; returns their number."""
    dropped = 0
    for question_id, rationales in right.items():
        room = student.max_length - len(prompts[question_id])
        fits = {name: text for name, text in rationales.items() if _length(student, text) <= room}
        dropped += len(rationales) - len(fits)
        right[question_id] = fits
    return dropped


def _length(student: Student, text: str) -> int:
    return len(rationale_tokens(student.tokenizer, fitted(text, student.thoughts), student.thoughts.marks))


def _kept(question_id: str, name: str, text: str, prompt: list[int], asked: IndexedQuestion, student: Student) -> Kept:
    where, text = f"rationale of {question_id!r}, {name}", fitted(text, student.thoughts)
    row = make_row(student.tokenizer, prompt, text, asked.answer, student.max_length, where, student.thoughts.marks)
    return Kept(question_id, name, row, asked.prompt, text, asked.answer)
