"""Configuration of question sources: the miniature, a file, a hub data set.

`Columns` defines how a row becomes a question, for every source with rows: the column of each field, and patterns that extract a part of a
text. It is data, so a new benchmark needs no code (`pipeline/questions/named.yaml` has the well-known ones). A pattern is a regular
expression with one group, which captures the wanted part.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import model_validator
from pydantic.functional_validators import AfterValidator

from pipeline.grading.grade import ANSWER_TYPES
from pipeline.schema.fields import FilePath, Frozen, identity, runtime


def _known(answer_type: str) -> str:
    if answer_type not in ANSWER_TYPES:
        raise ValueError(f"{answer_type!r} is not an answer type; use one of {', '.join(ANSWER_TYPES)}")
    return answer_type


def _one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"is not a valid regular expression ({error})") from error
    if groups != 1:
        raise ValueError(f"has {groups} groups; use exactly one, around the wanted part")
    return pattern


AnswerType = Annotated[str, AfterValidator(_known)]
Pattern = Annotated[str, AfterValidator(_one_group)]


class Columns(Frozen):
    """Column mapping of a source; `None` if the source has no such column. `a.b` is field `b` inside column `a`.

    Without an id column, rows are numbered. Several `question` columns are joined by a space. `choices` is a column with a list, several
    columns with one choice each, or a text in which `choice_pattern` finds the choices. `answer` is the answer itself or, with `labels`,
    one of the choices' labels; with `answer_is: index`, the index of the correct choice, counted from 0; with `answer_is: choice`, its
    exact text. `shuffle` orders the choices by a digest of the question's id, for sources that list the correct choice first. In addition
    to its own columns, a row has `source`, `split` and `subset`.
    """

    id: str | None = identity("id")
    question: str | tuple[str, ...] = identity("question")
    question_pattern: Pattern | None = identity(None)
    answer: str = identity("answer")
    answer_pattern: Pattern | None = identity(None)
    answer_is: Literal["value", "index", "choice"] = identity("value")
    answer_type: str | None = identity("answer_type")
    choices: str | tuple[str, ...] | None = identity("choices")
    choice_pattern: Pattern | None = identity(None)
    labels: str | None = identity(None)
    shuffle: bool = identity(False)
    rationale: str | None = identity("rationale")
    task: str | None = identity("task")

    @model_validator(mode="after")
    def _one_meaning(self) -> Columns:
        if self.labels is not None and self.answer_is != "value":
            raise ValueError(f"labels and answer_is: {self.answer_is} exclude each other; remove one of the two")
        return self


class MiniatureSource(Frozen):
    """Procedural questions of one family; a hash of each question's text decides its `split`."""

    kind: Literal["miniature"] = identity("miniature")
    family: str = identity()
    split: Literal["train", "dev", "test"] = identity()
    count: int = identity(ge=1)
    seed: int = identity(0)


class FileSource(Frozen):
    """A local Parquet, JSONL or CSV file.

    `limit` reads only the first rows. `max_characters` drops longer questions and counts them. `sample` then selects this many questions by
    a digest of their ids: from the whole file, and the same ones on every machine.
    """

    kind: Literal["file"] = identity("file")
    path: FilePath = runtime()
    columns: Columns = identity(Columns())
    answer_type: AnswerType | None = identity(None)
    limit: int | None = identity(None, ge=1)
    max_characters: int | None = identity(None, ge=1)
    sample: int | None = identity(None, ge=1)


class HubSource(Frozen):
    """A data set loaded with `datasets`: by hub name and pinned revision, or from a local folder of the same layout.

    A subset is a configuration of the data set or, in a folder, a subfolder. The other fields are as in `FileSource`.
    """

    kind: Literal["hub"] = identity("hub")
    name: str | None = identity(None)
    revision: str | None = identity(None, pattern=r"^[0-9a-f]{40}$")
    folder: FilePath | None = runtime(None)
    subset: str | None = identity(None)
    split: str = identity("train")
    columns: Columns = identity(Columns())
    answer_type: AnswerType | None = identity(None)
    limit: int | None = identity(None, ge=1)
    max_characters: int | None = identity(None, ge=1)
    sample: int | None = identity(None, ge=1)

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
