"""Says for every sample of a question whether it was kept, and which rule of synthesis dropped it otherwise.

Synthesis records only how many samples each rule drops. The rules are pure functions of the samples, so they are applied again, in the
same order (`stages/synthesis/selection.py`). Only the limit of tokens needs the student's tokenizer: a rationale that passes every other
rule and was not kept was too long. In a question that was left out for it, another reason may be named that holds as well: nearly the
same as another rationale, or over the limit of questions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from typing import Any, Final, NamedTuple

from pipeline.config.synthesis import Synthesis
from pipeline.grading.grade import Outcome
from pipeline.grading.majority import majority_is_right
from pipeline.perspectives.perspective import Perspective
from pipeline.rationales.curation import drop_duplicates, first_right, keep_easy_question, place, reasoning

KEPT: Final = "kept"
NOT_RIGHT: Final = "not right"
NOT_THE_FORM: Final = "not of the requested form"
NOT_ENDED: Final = "does not end in its answer"
NOT_FIRST: Final = "an earlier sample of this perspective is right"
NEARLY_THE_SAME: Final = "nearly the same as an earlier perspective's"
TOO_LONG: Final = "longer than training.max_length"
QUESTION_LEFT_OUT: Final = "its question was left out"

NONE_RIGHT: Final = "left out: no right rationale"
AGAINST_MAJORITY: Final = "left out: the most frequent answer is not the reference answer"
TOO_FEW: Final = "left out: too few perspectives are right and distinct"
EASY: Final = "left out: easy for the base student"
OVER_LIMIT: Final = "left out: over synthesis.max_questions"
TOO_FEW_FIT: Final = "left out: too few rationales within training.max_length"

Row = Mapping[str, Any]


class Rules(NamedTuple):
    """What selection depended on. `last`: the largest place of a kept question, None without a limit of questions."""

    settings: Synthesis
    perspectives: Sequence[Perspective]
    seed: int
    last: bytes | None


def verdicts(rows: Sequence[Row], kept: Collection[str], rate: float | None, rules: Rules) -> tuple[str, list[str]]:
    """What became of a question, and of each of its samples.

    Args:
        rows: all samples of one question, with the columns `SAMPLE`.
        kept: the perspectives whose rationale of this question was kept.
        rate: share of the base student's attempts that were right; None without attempts.
    """
    settings, names = rules.settings, [item.name for item in rules.perspectives]
    right = [row["outcome"] == Outcome.CORRECT for row in rows]
    formed = [fits and _has_form(row, rules) for fits, row in zip(right, rows, strict=True)]

    @cache
    def text(number: int) -> str | None:
        """The rationale that a sample makes, None if it makes none."""
        found = first_right([rows[number]], names, settings.thoughts).get(rows[number]["question_id"], {})
        return next(iter(found.values()), None)

    first = {}
    for name in names:
        mine = [number for number, row in enumerate(rows) if formed[number] and row["perspective"] == name]
        mine.sort(key=lambda number: rows[number]["sample_index"])
        # A text is costly to make: a kept one is not made unless another sample could be it.
        known = mine if name in kept and len(mine) == 1 else [number for number in mine if text(number) is not None]
        if known:
            first[name] = known[0]
    distinct = _distinct({name: partial(text, number) for name, number in first.items()}, kept, settings.duplicate_jaccard)
    state = _question(rows, right, distinct, kept, rate, rules)

    def said(number: int) -> str:
        name = rows[number]["perspective"]
        if not right[number]:
            return NOT_RIGHT
        if state == AGAINST_MAJORITY:
            return QUESTION_LEFT_OUT
        if not formed[number]:
            return NOT_THE_FORM
        if first.get(name) != number:
            return NOT_ENDED if text(number) is None else NOT_FIRST
        if name not in distinct:
            return NEARLY_THE_SAME
        if state != KEPT:
            return QUESTION_LEFT_OUT
        return KEPT if name in kept else TOO_LONG

    return state, [said(number) for number in range(len(rows))]


def _has_form(row: Row, rules: Rules) -> bool:
    if rules.settings.form == "report":
        return True
    form = next(item.form for item in rules.perspectives if item.name == row["perspective"])
    return form is None or form.fits(reasoning(row["text"], rules.settings.thoughts))


def _distinct(usable: Mapping[str, Callable[[], str | None]], kept: Collection[str], threshold: float) -> Collection[str]:
    """Perspectives whose rationale is no near-duplicate of an earlier one. Where some are kept, the others are compared with these."""
    if not kept:
        return drop_duplicates({name: str(text()) for name, text in usable.items()}, threshold)
    found = []
    for number, (name, text) in enumerate(usable.items()):
        before = list(usable)[:number]
        if name in kept or name in drop_duplicates(
            {**{other: str(usable[other]()) for other in before if other in kept}, name: str(text())}, threshold
        ):
            found.append(name)
    return found


def _question(
    rows: Sequence[Row],
    right: Sequence[bool],
    distinct: Collection[str],
    kept: Collection[str],
    rate: float | None,
    rules: Rules,
) -> str:
    settings, question_id = rules.settings, rows[0]["question_id"]
    if kept:
        return KEPT
    if not any(right):
        return NONE_RIGHT
    if settings.majority is not None and not majority_is_right(
        [row["outcome"] for row in rows], [row["answer"] for row in rows]
    ):
        return AGAINST_MAJORITY
    if len(distinct) < settings.min_perspectives:
        return TOO_FEW
    if rate is not None and rate > settings.easy_above and not keep_easy_question(question_id, rules.seed, settings.keep_easy):
        return EASY
    if rules.last is not None and place(question_id, rules.seed) > rules.last:
        return OVER_LIMIT
    return TOO_FEW_FIT
