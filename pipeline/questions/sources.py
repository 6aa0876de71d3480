"""Configuration of question sources: the miniature, a file, a hub data set.

`Columns` defines how a row becomes a question, for every source with rows: the column of each field, and patterns that extract a part of
a text. It is data, so a new benchmark needs no code (`pipeline/questions/named_benchmarks.yaml` has the well-known ones). A pattern is a
regular expression in RE2 syntax with one group, which captures the wanted part.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator
from pydantic.functional_validators import AfterValidator

from pipeline.grading.grade import ANSWER_TYPES
from pipeline.schema.fields import FilePath, Frozen, identity, runtime
from pipeline.schema.linear_patterns import compiled


def _known(answer_type: str) -> str:
    if answer_type not in ANSWER_TYPES:
        raise ValueError(f"{answer_type!r} is not an answer type; use one of {', '.join(ANSWER_TYPES)}")
    return answer_type


def _one_group(pattern: str) -> str:
    groups = compiled(pattern).groups
    if groups != 1:
        raise ValueError(f"has {groups} groups; use exactly one, around the wanted part")
    return pattern


AnswerType = Annotated[str, AfterValidator(_known)]
Pattern = Annotated[str, AfterValidator(_one_group)]


class Columns(Frozen):
    """Maps a source's columns to a question; null if the source has no such column. `a.b` is field b inside column a.

    Besides its own columns a row has `source`, `split` and `subset`.
    """

    id: str | None = identity("id")
    """Column with a unique id; without one, rows are numbered."""
    question: str | tuple[str, ...] = identity("question")
    """Column with the question; several columns are joined by a space."""
    question_pattern: Pattern | None = identity(None)
    """Regular expression (RE2) whose group is the question inside that column."""
    answer: str = identity("answer")
    """Column with the gold answer."""
    answer_pattern: Pattern | None = identity(None)
    """Regular expression (RE2) whose group is the answer inside that column."""
    answer_is: Literal["value", "index", "choice"] = identity("value")
    """The answer column holds the answer itself, the index of the correct choice counted from 0, or the text of the correct choice."""
    answer_type: str | None = identity("answer_type")
    """Column with the answer type: number, choice, boolean, date, math or text."""
    choices: str | tuple[str, ...] | None = identity("choices")
    """Column with a list of choices, or several columns with one choice each, or a text that `choice_pattern` splits."""
    choice_pattern: Pattern | None = identity(None)
    """Regular expression (RE2) that finds the choices inside a text; its group is one choice."""
    labels: str | None = identity(None)
    """Column with the choices' labels; then the answer is one of the labels."""
    shuffle: bool = identity(False)
    """Order the choices by a digest of the question's id, for sources that list the correct choice first."""
    rationale: str | None = identity("rationale")
    """Column with a human solution."""
    task: str | None = identity("task")
    """Column with the task's name."""

    @model_validator(mode="after")
    def _one_meaning(self) -> Columns:
        if self.labels is not None and self.answer_is != "value":
            raise ValueError(f"labels and answer_is: {self.answer_is} exclude each other; remove one of the two")
        return self


class MiniatureSource(Frozen):
    """Procedural questions of the miniature world."""

    kind: Literal["miniature"] = identity("miniature")
    family: str = identity()
    """Question family: dial, belt, wheel, clock, dial_long, lift, tram, largest, count or reverse."""
    split: Literal["train", "dev", "test"] = identity()
    """Split, which a hash of each question's text decides."""
    count: int = identity(ge=1)
    """Number of questions."""
    seed: int = identity(0)
    """Seed of the questions."""


class FileSource(Frozen):
    """A local Parquet, JSONL, JSON, CSV or TSV file; all but Parquet may be compressed (.gz, .bz2, .zst, .lz4)."""

    kind: Literal["file"] = identity("file")
    path: FilePath = runtime()
    """The file. Its content enters the fingerprint, its location does not."""
    columns: Columns = identity(Columns())
    """Column mapping."""
    answer_type: AnswerType | None = identity(None)
    """Answer type of all rows, in place of a column."""
    limit: int | None = identity(None, ge=1)
    """Read only the first rows, this many."""
    max_characters: int | None = identity(None, ge=1)
    """Leave out longer questions; they are counted."""
    sample: int | None = identity(None, ge=1)
    """Take this many of the remaining questions, chosen by a digest of their ids."""


class HubSource(Frozen):
    """A data set in the layout of a model hub: from the hub at a pinned revision, or a local folder of the same layout."""

    kind: Literal["hub"] = identity("hub")
    name: str | None = identity(None)
    """Hub data set, ORGANISATION/NAME."""
    revision: str | None = identity(None, pattern=r"^[0-9a-f]{40}$")
    """Commit of the hub repository, 40 hex digits; required with `name`."""
    folder: FilePath | None = runtime(None)
    """Local folder, in place of `name`. Its content enters the fingerprint, its location does not."""
    subset: str | None = identity(None)
    """Subset (configuration) of the data set; in a folder, the subfolder of that name."""
    split: str = identity("train")
    """Split to read, or an expression such as `train[:10%]+test`."""
    columns: Columns = identity(Columns())
    """Column mapping."""
    answer_type: AnswerType | None = identity(None)
    """Answer type of all rows, in place of a column."""
    limit: int | None = identity(None, ge=1)
    """Read only the first rows, this many."""
    max_characters: int | None = identity(None, ge=1)
    """Leave out longer questions; they are counted."""
    sample: int | None = identity(None, ge=1)
    """Take this many of the remaining questions, chosen by a digest of their ids."""

    @model_validator(mode="after")
    def _pinned(self) -> HubSource:
        if (self.name is None) == (self.folder is None):
            raise ValueError("give either name and revision (a hub data set) or folder (a local one)")
        if self.name is not None and self.revision is None:
            raise ValueError("a hub data set needs a revision (40 hex digits), so that the run is reproducible")
        return self

    @property
    def location(self) -> str:
        """The path argument of `load_dataset`."""
        return str(self.folder) if self.folder is not None else str(self.name)
