"""Selects the rationales that every model reads in the latent analysis: those of a seeded sample of questions.

Questions that no model was trained on are preferred. They are computed from the order in which training visits its questions. If there are
enough of them, only they are used; otherwise the sample is drawn from all questions that synthesis kept, and every presentation of the
figures must say so. Questions with all perspectives come first, then those with the most.

Axes: N questions of the set, M questions available for training, K perspectives, Q questions and B rationales that are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config.run import RunConfig
from pipeline.errors import NothingSurvives
from pipeline.model_thoughts import thought_form
from pipeline.perspectives.run_perspectives import perspectives_of
from pipeline.prompt_rendering import prompt_tokens
from pipeline.student.batch import TokenRow
from pipeline.training.training_set import context_row, held_out, make_row, questions_of_step
from storage.artifact import Artifact

Indices = NDArray[np.integer]
Floats = NDArray[np.floating]

LEAST: Final = 10
"""The minimum number of questions for the analysis."""

ENOUGH: Final = 30
"""The number of unseen questions from which on only they are used, even if more were requested."""


class Sets(NamedTuple):
    """The N questions that a synthesis kept, in order: mask of their K rationales, and MetaNet's preferences after warm-up."""

    ids: list[str]
    mask_NK: NDArray[np.bool_]
    preference_NK: Floats


def read_sets(synthesis: Artifact) -> Sets:
    """Read the columns of `sets` that fit into memory."""
    table = synthesis.table("sets", ["question_id", "mask_K", "preference_K"])
    mask_NK = np.array(table["mask_K"].to_pylist(), np.bool_)
    return Sets(table["question_id"].to_pylist(), mask_NK, np.array(table["preference_K"].to_pylist(), np.float64))


def names_of(run: RunConfig) -> list[str]:
    """Names of a run's perspectives."""
    return [item.name for item in perspectives_of(run)]


def trained_on(run: RunConfig, sets: Sets) -> set[str]:
    """The questions that a run's training uses in at least one step."""
    training = run.training
    taken_K = np.array([training.perspectives is None or name in training.perspectives for name in names_of(run)])
    out_N = held_out(len(sets.ids), training.hold_out, run.seed).numpy()
    there_M = np.flatnonzero((sets.mask_NK & taken_K).any(-1) & ~out_N)
    stepped_M = np.zeros(len(there_M), np.bool_)
    for step in range(training.steps):
        stepped_M[questions_of_step(step, len(there_M), training.questions_per_step, run.seed).numpy()] = True
        if stepped_M.all():
            break
    return {sets.ids[place] for place in there_M[stepped_M]}


class Choice(NamedTuple):
    """The questions whose rationales are read, whether no model was trained on any of them, and the number of such questions."""

    ids: list[str]
    unseen: bool
    unseen_there_are: int


def choose_questions(sets: Sets, trained: set[str], wanted: int, seed: int) -> Choice:
    """A sample of at most `wanted` questions.

    Raises:
        NothingSurvives: synthesis kept too few.
    """
    if len(sets.ids) < LEAST:
        raise NothingSurvives(
            f"latent: synthesis kept {len(sets.ids)} questions, expected at least {LEAST}; sample more questions"
        )
    new = [place for place, name in enumerate(sets.ids) if name not in trained]
    unseen = len(new) >= min(wanted, ENOUGH)
    pool = np.random.default_rng(seed).permutation(new if unseen else len(sets.ids))
    fullest = pool[np.argsort(-sets.mask_NK[pool].sum(-1), kind="stable")][:wanted]
    return Choice([sets.ids[place] for place in sorted(fullest)], unseen, len(new))


class Rows(NamedTuple):
    """B rationales of Q questions: prompts before any rationale, rationales, and rationales without their last sentence.

    `length_B` is the number of the rationale's tokens.
    """

    ids: list[str]
    names: list[str]
    prompts: list[TokenRow]
    rationales: list[TokenRow]
    contexts: list[TokenRow]
    question_B: Indices
    perspective_B: Indices
    length_B: Indices


def _texts(synthesis: Artifact, ids: Sequence[str]) -> Iterable[dict[str, Any]]:
    wanted, columns = set(ids), ["question_id", "perspective", "prompt", "rationale", "answer"]
    for piece in synthesis.batches("rationales", columns):
        yield from (item for item in piece.to_pylist() if item["question_id"] in wanted)


def read_rows(synthesis: Artifact, ids: Sequence[str], run: RunConfig, tokenizer: Any) -> Rows:
    """The rationales of these questions, tokenised as in training."""
    names, limit, place = names_of(run), run.training.max_length, {name: number for number, name in enumerate(ids)}
    marks = thought_form(tokenizer, run.student).marks
    prompts: dict[int, TokenRow] = {}
    found: list[tuple[int, int, TokenRow, TokenRow]] = []
    for item in _texts(synthesis, ids):
        question, where = place[item["question_id"]], f"rationale of {item['question_id']!r}, {item['perspective']}"
        prompt = prompt_tokens(tokenizer, item["prompt"], run.student.dialogue)
        prompts[question] = TokenRow(prompt, len(prompt), (len(prompt), len(prompt)))
        text, answer = item["rationale"], item["answer"]
        row, context = (make(tokenizer, prompt, text, answer, limit, where, marks) for make in (make_row, context_row))
        found.append((question, names.index(item["perspective"]), row, context))
    question_B, perspective_B, rationales, contexts = zip(*found, strict=True)
    return Rows(
        ids=list(ids),
        names=names,
        prompts=[prompts[number] for number in range(len(ids))],
        rationales=list(rationales),
        contexts=list(contexts),
        question_B=np.array(question_B),
        perspective_B=np.array(perspective_B),
        length_B=np.array([len(row.tokens) - row.start for row in rationales]),
    )
