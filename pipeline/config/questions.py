"""The `questions` section: training sources, evaluation sets, deduplication and decontamination."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pipeline.questions.named_benchmarks import NamedSource, Source, evaluation_only
from pipeline.schema.fields import FilePath, Frozen, identity, runtime


class EvaluationSet(Frozen):
    """A named set of questions that is only ever evaluated."""

    name: str = identity(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name in tables and plots."""
    group: Literal["id", "ood"] = identity()
    """In distribution (`id`) or out of distribution (`ood`)."""
    use: Literal["dev", "test"] = identity("test")
    """`dev` sets are for choosing hyper-parameters, `test` sets for reported results."""
    source: Source = identity()
    """Where its questions come from."""


class Panel(Frozen):
    """Question lists that several runs share: the file that `questions.panel` names."""

    train: tuple[Source, ...] | None = identity(None, min_length=1)
    """Training sources."""
    evaluation: tuple[EvaluationSet, ...] | None = identity(None, min_length=1)
    """Evaluation sets."""


class Questions(Frozen):
    """Questions to distil and questions to evaluate.

    `panel: FILE` stands for the `train` and `evaluation` lists of that file, unless they are given here; its paths are relative to it.
    """

    folder: FilePath | None = runtime(None)
    """Local copies of named benchmarks: a benchmark without a folder of its own is read from the folder of its name in this one."""
    train: tuple[Source, ...] = identity(min_length=1)
    """Training sources."""
    evaluation: tuple[EvaluationSet, ...] = identity(min_length=1)
    """Evaluation sets."""
    shared_words: int | None = identity(None, ge=5)
    """Decontamination: leave out training questions that share a run of this many words with an evaluated question; 13 is usual."""
    near_duplicates: float | None = identity(None, ge=0.1, le=1)
    """Deduplication: leave out training questions whose Jaccard similarity to an earlier one is at least this; 0.8 is usual."""

    @model_validator(mode="after")
    def _distinct_names(self) -> Questions:
        names = [item.name for item in self.evaluation]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two evaluation sets are called {name!r}; give each its own name")
        return self

    @model_validator(mode="after")
    def _trained_on_by_consent(self) -> Questions:
        for number, source in enumerate(self.train):
            agreed = isinstance(source, NamedSource) and source.despite_evaluation_only
            reason = evaluation_only(source)
            if reason is not None and not agreed:
                raise ValueError(
                    f"train.{number} is for evaluation only: {reason}; train on something else or, with kind: named, "
                    "set despite_evaluation_only: true and say so with the results"
                )
        return self

    def sources(self) -> tuple[list[Source], list[Source]]:
        """Training sources and evaluation sources, with the folders that they are read from."""
        return [self._placed(source) for source in self.train], [self._placed(item.source) for item in self.evaluation]

    def _placed(self, source: Source) -> Source:
        if self.folder is None or not isinstance(source, NamedSource) or source.folder is not None:
            return source
        return source.model_copy(update={"folder": self.folder / source.name})
