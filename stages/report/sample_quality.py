"""Describes the teacher's samples: the share that has the requested form, and the diversity of the perspectives.

Processes one shard at a time; a shard has all samples of its questions. Diversity is measured on the correct samples that selection would
keep first, without thoughts and closing sentence, whatever their form. All figures depend on sampling only; changing a form in the
perspectives' file changes nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from pipeline.grading.grade import Outcome
from pipeline.perspectives.perspective import Perspective
from pipeline.rationales.conclusion import without_answer_statement
from pipeline.rationales.curation import first_right, reasoning, words
from pipeline.rationales.diversity import distances, distinct

FORMS: Final = pa.schema(
    [("question_id", pa.string()), ("perspective", pa.string()), ("sample_index", pa.int32()), ("form", pa.bool_())]
)
"""Whether a sample has the requested form; null if its perspective has none."""
ALL: Final = "ALL"
"""A key that no perspective's name can equal."""

Sums = defaultdict[tuple[str, str], float]
"""Sums by perspective, or `ALL`, and quantity."""


def forms_of(samples: pa.Table, perspectives: Sequence[Perspective], thoughts: str) -> pa.Table:
    """A row of `FORMS` per sample of a shard."""
    asked = {item.name: item.form for item in perspectives}
    fits = []
    for name, text in zip(samples["perspective"].to_pylist(), samples["text"].to_pylist(), strict=True):
        form = asked[name]
        fits.append(None if form is None else form.fits(reasoning(text, thoughts)))
    columns = [samples[name] for name in FORMS.names[:-1]]
    return pa.table([*columns, pa.array(fits, pa.bool_())], schema=FORMS)


def _covered(rows: Iterable[Mapping[str, Any]], fits: Iterable[bool | None]) -> set[tuple[str, str]]:
    """Questions and perspectives with a correct sample that is not known to violate the form."""
    found = zip(rows, fits, strict=True)
    return {
        (row["question_id"], row["perspective"]) for row, fit in found if row["outcome"] == Outcome.CORRECT and fit is not False
    }


def _compare(rationales: Mapping[str, str], sums: Sums) -> None:
    """Add one question's rationales, given by perspective, to `sums`."""
    texts = {name: words(text) for name, text in rationales.items()}
    for name, text in texts.items():
        _sum(sums, name, "words", len(text))
        _sum(sums, name, "distinct_2", distinct([text]))
    _sum(sums, ALL, "distinct_2", distinct(texts.values()))
    for (one, other), distance in distances(rationales).items():
        for name in (one, other, ALL):
            _sum(sums, name, "distance", distance)


def _sum(sums: Sums, name: str, what: str, value: float | None) -> None:
    if value is not None:
        sums[name, what] += value
        sums[name, f"{what}, many"] += 1


def add(samples: pa.Table, forms: pa.Table, perspectives: Sequence[Perspective], thoughts: str, sums: Sums) -> None:
    """Add a shard with the columns `SAMPLE` and its forms to `sums`."""
    rows, fits = samples.to_pylist(), forms["form"].to_pylist()
    sums[ALL, "questions"] += len(samples["question_id"].unique())
    for row, fit in zip(rows, fits, strict=True):
        _sum(sums, row["perspective"], "form", fit)
    for _, name in _covered(rows, fits):
        sums[name, "covered"] += 1
    right = first_right(rows, [item.name for item in perspectives], thoughts)
    for rationales in right.values():
        _compare({name: without_answer_statement(text) for name, text in rationales.items()}, sums)


def _mean(sums: Sums, name: str, what: str) -> float | None:
    many = sums[name, f"{what}, many"]
    return sums[name, what] / many if many else None


def summarised(sums: Sums, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Statistics per perspective and over `ALL`.

    `form`: share of samples with the requested form; `coverage`: share of questions with a correct sample of that form; `distance`: mean
    distance to the question's other perspectives; `distinct_2` and `words`: means over rationales. None if there is nothing to average.
    """
    questions = sums[ALL, "questions"]
    found = {
        name: {
            "form": _mean(sums, name, "form"),
            "coverage": sums[name, "covered"] / questions if questions else None,
            **{what: _mean(sums, name, what) for what in ("distance", "distinct_2", "words")},
        }
        for name in names
    }
    return found | {ALL: {what: _mean(sums, ALL, what) for what in ("distance", "distinct_2")}}
