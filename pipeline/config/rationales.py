"""Imported rationales as configuration: a file of worked solutions that takes the place of a teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints, model_validator

from pipeline.schema.fields import FilePath, Frozen, identity, runtime

PerspectiveName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]


class RationaleColumns(Frozen):
    """Columns of the file; `a.b` is field b inside column a. Exactly one of `question` and `question_id` is given."""

    question: str | None = identity(None)
    """Column with the wording of the rationale's question."""
    question_id: str | None = identity(None)
    """Column with the id of the rationale's question."""
    text: str = identity("text")
    """Column with the rationale."""
    answer: str | None = identity(None)
    """Column with the answer, for texts that stop before it: appended as the answer sentence, and graded."""
    perspective: str | None = identity(None)
    """Column with the perspective's label."""
    finished: str | None = identity(None)
    """Column that says whether the text ended by itself: true or false, or a finish reason (stop, length). Others are truncated."""

    @model_validator(mode="after")
    def _one_way_to_match(self) -> RationaleColumns:
        if (self.question is None) == (self.question_id is None):
            raise ValueError(
                "give either question, the column with the question's wording, or question_id, the column with its id"
            )
        return self


class ImportedRationales(Frozen):
    """A file or folder of rationales, how its rows are read, and the perspectives that they belong to."""

    path: FilePath = runtime()
    """Parquet, JSONL, JSON, CSV or TSV file, or a folder of such files. Its content enters the fingerprint, its location does not."""
    subset: str | None = identity(None)
    """Folder only: the subset to read."""
    split: str | None = identity(None)
    """Folder only: the split to read; `train` if left out."""
    columns: RationaleColumns = identity()
    """Columns of the file."""
    names: dict[str, PerspectiveName] | None = identity(None, min_length=1)
    """Map from the file's labels to perspective names; without it labels are the run's own perspective names."""
    unlabelled: Literal["numbered", "clustered"] | None = identity(None)
    """For rows without labels: number a question's rationales, or cluster all rationales by style."""
    places: int | None = identity(None, ge=1)
    """For rows without labels: the number of perspectives."""

    @model_validator(mode="after")
    def _labelled_or_not(self) -> ImportedRationales:
        if self.columns.perspective is None and (self.unlabelled is None or self.places is None or self.names is not None):
            raise ValueError(
                "set columns.perspective to the column of labels, or set unlabelled (numbered, clustered) and places, the number of "
                "perspectives"
            )
        if self.columns.perspective is not None and (self.unlabelled is not None or self.places is not None):
            raise ValueError("unlabelled and places apply only to rows without labels; remove them or columns.perspective")
        return self

    def perspectives(self) -> tuple[str, ...] | None:
        """Perspective names that the file defines; None if its labels are the run's own."""
        if self.columns.perspective is not None:
            return None if self.names is None else tuple(dict.fromkeys(self.names.values()))
        word = "given" if self.unlabelled == "numbered" else "cluster"
        return tuple(f"{word}-{number}" for number in range(1, (self.places or 0) + 1))
