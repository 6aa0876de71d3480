"""Accuracies by other measures than the zero-shot greedy answers: by likelihood, with worked examples, and both.

Each measure is compared like the greedy answers (`stages/shared/compare_accuracy.py`): accuracies with Wilson intervals, paired changes of
the student against its base on identical items, and forgetting. A measure by likelihood covers the `choice` and `boolean` questions
alone, and has no answers that could not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

import pyarrow.compute as pc

from pipeline.analysis.accuracy_numbers import Measurement
from pipeline.config.evaluation import Evaluation
from pipeline.grading.grade import Outcome
from stages.shared.compare_accuracy import COUNTED, Tables, accuracies, summarise

NORMS: Final = {
    "sum": "log-likelihood",
    "per_token": "log-likelihood per token",
    "per_character": "log-likelihood per character",
    "unconditional": "log-likelihood against the choice alone",
}
"""The verdict columns of the shards `likelihoods` and what they mean."""
TITLES: Final = {
    **NORMS,
    "few_shot": "with examples, generated",
    **{f"few_shot_{norm}": f"with examples, {title}" for norm, title in NORMS.items()},
}
"""Name and title of every measure."""
CHOSEN: Final = "per_character"
"""The norm that the report's findings state, fixed in advance: the usual one for choices of different lengths."""
_OUTCOME: Final = "outcome"

Source = Callable[[str, list[str]], Tables]
"""Reads some columns of a table's shards, one at a time."""


class Measure(NamedTuple):
    """The shards that have the verdicts of a measure, and the column: an outcome, or whether a choice was right."""

    prefix: str
    column: str

    @property
    def by_likelihood(self) -> bool:
        return self.column != _OUTCOME


def measures(settings: Evaluation) -> dict[str, Measure]:
    """The measures that a run asks for, by name."""
    found: dict[str, Measure] = {}
    if settings.likelihood:
        found |= {norm: Measure("likelihoods", norm) for norm in NORMS}
    if settings.examples:
        found["few_shot"] = Measure("few_shot", _OUTCOME)
    if settings.likelihood and settings.examples:
        found |= {f"few_shot_{norm}": Measure("likelihoods_few_shot", norm) for norm in NORMS}
    return found


def _tables(source: Source, measure: Measure) -> Tables:
    """Tables with the columns of `COUNTED`."""
    if not measure.by_likelihood:
        return source(measure.prefix, COUNTED)
    return _verdicts(source(measure.prefix, [*(name for name in COUNTED if name != _OUTCOME), measure.column]), measure)


def _verdicts(tables: Tables, measure: Measure) -> Iterator[object]:
    for table in tables:
        yield table.append_column(_OUTCOME, pc.if_else(table[measure.column], Outcome.CORRECT.value, Outcome.WRONG.value))


def measured_references(
    settings: Evaluation, own: Source, models: Sequence[str], likely: Sequence[str]
) -> dict[str, Measurement] | None:
    """Accuracies of the references by every measure; `likely` are the models with likelihoods. None without any measure."""
    return {
        name: Measurement(accuracy=accuracies(_tables(own, measure), likely if measure.by_likelihood else models).accuracy)
        for name, measure in measures(settings).items()
    } or None


def measured_student(
    settings: Evaluation, references: Source, own: Source, known: Mapping[str, Measurement]
) -> dict[str, Measurement] | None:
    """The same with the student and its changes; `known` are the references' measurements. None without any measure."""
    found = {}
    for name, measure in measures(settings).items():
        tables = chain(_tables(references, measure), _tables(own, measure))
        compared = summarise(tables, tuple(known[name].accuracy))
        found[name] = Measurement(
            accuracy=compared.accuracy, student_against_base=compared.student_against_base, forgetting=compared.forgetting
        )
    return found or None
