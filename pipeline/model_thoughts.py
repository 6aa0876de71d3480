"""What a model does about thoughts: the marks around them, and whether its prompt begins one.

Templates of thinking models differ: some leave the thought to the model, some open it at the end of the prompt (`<think>`), some write an
empty thought themselves. A model behind an opening prompt writes no start mark, and if it is cut off, no mark at all: its text would pass
for an answer. So every engine's texts are made whole here: they begin with the mark that the prompt has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pipeline.config.models import ImportedModel, ServedModel, Teacher, Weights
from pipeline.grading.wording.thoughts import END, START, with_think_marks
from pipeline.prompt_rendering import rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Marks = tuple[str, str]
"""Start and end of a thought."""
THINK: Final[Marks] = (START, END)
_FAMILIES: Final[tuple[Marks, ...]] = (
    THINK,
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<seed:think>", "</seed:think>"),
)
"""Marks that a student may be trained to write; read are more (`pipeline/grading/wording/thoughts.py`)."""
_SPECIAL: Final = frozenset(
    {mark for marks in _FAMILIES for mark in marks} | {"<|channel|>", "<|message|>", "<|start|>", "<|end|>"}
)
"""Special tokens of which marks consist; the last four are those of gpt-oss."""
PromptEnd = Literal["free", "opened", "closed"]
"""What the prompt does about thoughts: nothing, it opens one, or it contains an empty one."""


class ThoughtForm(NamedTuple):
    """What a model's prompt does about thoughts, and the marks that the model writes."""

    before: PromptEnd = "free"
    marks: Marks = THINK


def thought_form(tokenizer: PreTrainedTokenizerBase, model: Weights) -> ThoughtForm:
    """The form that a model's configuration, chat template and tokenizer ask for; a prompt without turns says nothing."""
    marks = model.thought_marks or _own_marks(tokenizer)
    if model.dialogue is None:
        return ThoughtForm("free", marks)
    behind = with_think_marks(_without_custom(rendered(tokenizer, "?", model.dialogue).rpartition("?")[2], model.thought_marks))
    start, end = (behind.rfind(mark) for mark in THINK)
    return ThoughtForm("opened" if start > end else "closed" if end >= 0 else "free", marks)


def _own_marks(tokenizer: PreTrainedTokenizerBase) -> Marks:
    template = str(tokenizer.chat_template or "")
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return next((marks for marks in _FAMILIES if marks[0] in added or marks[0] in template), THINK)


def special_marks(tokenizer: PreTrainedTokenizerBase, custom: Marks | None) -> frozenset[str]:
    """The tokenizer's special tokens that mark thoughts; decoding without special tokens would lose the marks."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found = special & (_SPECIAL | {*(custom or ())})
    return frozenset(found) if found - {"<|start|>", "<|end|>", "<|message|>"} else frozenset()


def without_other_tokens(tokenizer: PreTrainedTokenizerBase, text: str, kept: frozenset[str]) -> str:
    """A text that was decoded with special tokens, without those that are not `kept`."""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and token.content not in kept:
            text = text.replace(token.content, "")
    return text


def _without_custom(text: str, custom: Marks | None) -> str:
    """The text with custom marks as `<think>` and `</think>`."""
    return text if custom is None else text.replace(custom[1], END).replace(custom[0], START)


def whole_text(text: str, before: PromptEnd, custom: Marks | None = None) -> str:
    """A model's text with the start of a thought that its prompt began, and with custom marks as `<think>` and `</think>`.

    An end without a start shows that the prompt began the thought, also behind a server whose template is unknown.
    """
    text = _without_custom(text, custom)
    if not text:
        return text
    marked = with_think_marks(text)
    start, end = marked.find(START), marked.find(END)
    ended_first = end >= 0 and not 0 <= start < end
    if ended_first or (before == "opened" and not marked.lstrip().startswith(START)):
        return f"{START}\n{text}"
    return text


def prompt_end(model: Teacher) -> PromptEnd:
    """What the prompts of an answering model do about thoughts; of a server's template only the configuration knows."""
    if isinstance(model, ServedModel):
        return "opened" if model.opens_thought else "free"
    assert not isinstance(model, ImportedModel), "an imported teacher is not asked"
    if model.dialogue is None:
        return "free"
    from pipeline.model_folders import load_tokenizer

    return thought_form(load_tokenizer(model), model).before
