"""Models that a run names: a local folder, a hub model at a pinned revision, a model behind a server, or no model at all.

The four kinds are told apart by the key that is given: `path`, `name` (with `revision`), `served` or `imported`. A role accepts only the
kinds that it can use: a student needs weights on this machine; a teacher may also be served, or replaced by imported rationales.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Discriminator, Tag, model_validator

from pipeline.schema.fields import FilePath, Frozen, identity, runtime


class Turns(Frozen):
    """The parts of a chat prompt besides the user turn."""

    system: str | None = identity(None, min_length=1)
    """System turn; left out if null."""
    template: dict[str, bool | int | str] | None = identity(None)
    """Arguments of the model's own chat template, for example `{enable_thinking: false}`."""


class _Prompted(Frozen):
    """How any model is prompted, wherever its weights are."""

    chat: bool = identity(True)
    """Send each prompt as the user turn of the model's own chat template. A base model needs `false`: it reads the prompt as it is."""
    turns: Turns | None = identity(None)
    """System turn and template arguments around each prompt."""
    thought_marks: tuple[str, str] | None = identity(None)
    """Start and end mark of the model's thoughts, if they are none of the known ones, for example `["<plan>", "</plan>"]`."""

    @model_validator(mode="before")
    @classmethod
    def _null_means_left_out(cls, value: Any) -> Any:
        """A recorded configuration may list the keys of the other kinds as null."""
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _turns_need_a_chat(self) -> _Prompted:
        if self.turns is not None and not self.chat:
            raise ValueError("turns: chat is false, so there are no turns; put the words into the templates of prompts")
        return self

    @model_validator(mode="after")
    def _marks_differ(self) -> _Prompted:
        if self.thought_marks is not None and (not all(self.thought_marks) or self.thought_marks[0] == self.thought_marks[1]):
            raise ValueError("thought_marks: give two different texts, the start and the end of a thought")
        return self

    @property
    def dialogue(self) -> Turns | None:
        """Turns around a prompt; None if the model reads the prompt as it is."""
        return (self.turns or Turns()) if self.chat else None


class LocalModel(_Prompted):
    """A transformers folder: config.json, tokenizer.json and safetensors weights."""

    tag: ClassVar[str] = "path"

    path: FilePath = runtime()
    """The folder. Its content enters the fingerprint, its location does not."""

    @property
    def location(self) -> str:
        """First argument of `from_pretrained`."""
        return str(self.path)

    @property
    def revision(self) -> None:
        """A folder has no revision."""
        return None


class HubModel(_Prompted):
    """A hub model at a pinned revision, so that the run can be repeated."""

    tag: ClassVar[str] = "name"

    name: str = identity()
    """ORGANISATION/MODEL."""
    revision: str = identity(pattern=r"^[0-9a-f]{40}$")
    """Commit of the hub repository, 40 hex digits."""

    @model_validator(mode="before")
    @classmethod
    def _pinned(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("revision") is None:
            raise ValueError("a hub model needs its revision, 40 hex digits, so that the run can be repeated")
        return value

    @property
    def location(self) -> str:
        """First argument of `from_pretrained`."""
        return self.name


class ServedModel(_Prompted):
    """The model behind an OpenAI-compatible server; its weights are not on this machine."""

    tag: ClassVar[str] = "served"

    served: Literal[True] = identity()
    """`true`: the server that `engine.base_url` names answers."""
    opens_thought: bool | None = identity(None)
    """`true`: the server's chat template ends every prompt with the start of a thought, and the server does not send thoughts apart."""


class ImportedModel(_Prompted):
    """No model: the rationales of `sampling.rationales` take the place of a teacher."""

    tag: ClassVar[str] = "imported"

    imported: Literal[True] = identity()
    """`true`: no teacher is asked."""


_KINDS: Final = (LocalModel, HubModel, ServedModel, ImportedModel)


def _kind_of(value: Any) -> str | None:
    """Tag of the kind whose key is given; None if no key or several keys are."""
    if isinstance(value, _KINDS):
        return f"<{value.tag}>"
    if not isinstance(value, Mapping):
        return None
    given = [kind.tag for kind in _KINDS if value.get(kind.tag) is not None]
    return f"<{given[0]}>" if len(given) == 1 else None


_CHOICES: Final = "give one of path (a local folder) or name and revision (a hub model)"


def _by_key(choices: str) -> Any:
    return Discriminator(_kind_of, custom_error_type="model_kind", custom_error_message=choices)


_Local = Annotated[LocalModel, Tag("<path>")]
_Hub = Annotated[HubModel, Tag("<name>")]
_Served = Annotated[ServedModel, Tag("<served>")]
_Imported = Annotated[ImportedModel, Tag("<imported>")]

Weights = LocalModel | HubModel
"""A model whose weights can be loaded on this machine."""
WeightsField = Annotated[_Local | _Hub, _by_key(f"its weights are needed here: {_CHOICES}")]
"""A field for a model that is trained or that runs in this process."""
JudgeField = Annotated[_Local | _Hub | _Served, _by_key(f"{_CHOICES}, or served: true; a judge has to be asked")]
"""A field for a model that has to answer."""
Teacher = LocalModel | HubModel | ServedModel | ImportedModel
"""Any kind of model."""
TeacherField = Annotated[
    _Local | _Hub | _Served | _Imported, _by_key(f"{_CHOICES}, or for a teacher served: true or imported: true")
]
"""A field for the model that writes rationales."""


def with_weights_at(model: Weights, path: Path) -> LocalModel:
    """Other weights that are prompted like `model`: a trained student."""
    return LocalModel(path=path, chat=model.chat, turns=model.turns, thought_marks=model.thought_marks)
