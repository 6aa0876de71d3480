"""Converts a question to the exact tokens that a model reads, identically for sampling, training and evaluation.

A prompt is rendered from a sandboxed Jinja template. For chat models it becomes the user turn of the model's own chat template; plain
prompts are tokenised unchanged. Either the chat template or the tokenizer adds the beginning-of-sequence token, never both. The loss mask
covers exactly the rationale and the end token.

A prompt may have worked examples before it: earlier turns for a chat model, otherwise text above the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.config.models import Teacher, Turns
from pipeline.config.prompts import LIKELIHOOD, Prompts
from pipeline.errors import ConfigError, ModelError
from pipeline.grading.choices import LETTERS
from pipeline.grading.wording.thoughts import END, START
from pipeline.model_folders import special_tokens
from pipeline.perspectives.perspective import Perspective
from pipeline.questions.question import Question
from pipeline.text_tokens import text_tokens, without_marks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
GAP: Final = "\n\n\n"
"""Ends every worked example of a plain prompt. Two empty lines, because a rationale may contain one."""


@dataclass(frozen=True)
class WorkedPrompt:
    """A prompt with worked examples before it: pairs of a prompt and its answer."""

    examples: tuple[tuple[str, str], ...]
    text: str

    @property
    def plain(self) -> str:
        """The whole as text, for a model without a chat template. An answer is on its example's own line, or on the next one."""
        parts = (f"{asked}{'' if asked[-1:].isspace() else chr(10)}{answer}{GAP}" for asked, answer in self.examples)
        return "".join([*parts, self.text])

    def changed(self, change: Callable[[str], str]) -> WorkedPrompt:
        """Each text changed."""
        return WorkedPrompt(tuple((change(asked), change(answer)) for asked, answer in self.examples), change(self.text))


Prompt: TypeAlias = str | WorkedPrompt
"""What a model is asked: a text, which for a chat model becomes the user turn, or a text with worked examples."""


def _worked(prompt: Prompt) -> WorkedPrompt:
    return WorkedPrompt((), prompt) if isinstance(prompt, str) else prompt


def plain_text(prompt: Prompt) -> str:
    """The text that a model without a chat template reads."""
    return _worked(prompt).plain


@lru_cache(maxsize=16)
def _template(source: str) -> Any:
    return _ENVIRONMENT.from_string(source)


def render(template: str, **values: str) -> str:
    """Renders a template.

    Raises:
        ConfigError: a syntax error, or an unknown name in the template.
    """
    try:
        return str(_template(template).render(**values))
    except (TemplateError, TypeError, ValueError, ArithmeticError, OverflowError) as error:
        names = ", ".join(sorted(values))
        raise ConfigError(f"prompts: template {template[:60]!r}: {error}; it may use {names}") from error


def student_prompt(prompts: Prompts, question: Question) -> str:
    """The prompt of the student and of every evaluated model."""
    return render(prompts.question, question=question.text)


def likelihood_prompt(prompts: Prompts, question: Question) -> str:
    """The text before a choice whose likelihood is measured."""
    lettered = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
    return render(prompts.likelihood or LIKELIHOOD, question=question.question, choices=lettered)


def teacher_prompt(prompts: Prompts, question: str, perspective: Perspective) -> str:
    """The teacher's prompt for one perspective; `question` is the question's text."""
    return render(
        prompts.perspective,
        question=question,
        perspective=perspective.called or perspective.name,
        instruction=perspective.instruction,
    )


def visible_to_teacher(prompts: Prompts, perspectives: tuple[Perspective, ...]) -> tuple[Perspective, ...]:
    """Perspectives as the teacher sees them: without instruction and form if the template does not use the instruction.

    A changed instruction that no prompt contains then invalidates no samples, and no form is checked that was not requested.
    """
    try:
        shown = meta.find_undeclared_variables(_ENVIRONMENT.parse(prompts.perspective))
    except TemplateSyntaxError:  # `check_prompts` reports the error
        return perspectives
    if "instruction" in shown:
        return perspectives
    return tuple(item.model_copy(update={"instruction": "", "form": None}) for item in perspectives)


def check_likelihood_prompt(prompts: Prompts) -> None:
    """Renders the template once to report errors before any model is loaded.

    Raises:
        ConfigError: a syntax error or unknown name, or a template without text.
    """
    if not likelihood_prompt(prompts, Question(id="probe", question="?", answer="", answer_type="text")).strip():
        raise ConfigError("prompts.likelihood: is empty, so that a choice would follow nothing; add {{ question }}")


def check_prompts(prompts: Prompts, perspectives: tuple[Perspective, ...], reader: Teacher) -> None:
    """Renders the templates once to report errors before any model is loaded.

    Raises:
        ConfigError: a syntax error or unknown name, or a special token of the model that reads the prompts.
    """
    probe = Question(id="probe", question="?", answer="", answer_type="text")
    render(prompts.answer, prompt=student_prompt(prompts, probe))
    for perspective in perspectives:
        teacher_prompt(prompts, probe.text, perspective)
    marks = special_tokens(reader)
    for name in ("question", "perspective", "answer"):
        for mark in sorted(mark for mark in marks if mark in getattr(prompts, name)):
            raise ConfigError(
                f"prompts.{name}: {mark!r} would be read as text and not as the model's special token, as in every question; "
                "remove it, the model's chat template adds such tokens (chat: true)"
            )


def stops(prompts: Prompts, template: str, reader: Teacher) -> tuple[str, ...]:
    """The texts that end an answer of `reader` to a prompt of `template`: `prompts.stop`, or its default (see there)."""
    if prompts.stop is not None or reader.dialogue is not None:
        return prompts.stop or ()
    words = template.partition("{")[0].rpartition("\n")[2].strip()
    return (f"\n\n{words}",) if len(words) > 2 else ()


def stops_with_examples(prompts: Prompts, template: str, reader: Teacher) -> tuple[str, ...]:
    """`stops` of a prompt with worked examples: a plain answer also ends where its example would."""
    found = stops(prompts, template, reader)
    return found if prompts.stop is not None or reader.dialogue is not None else (*found, GAP)


def messages(prompt: Prompt, turns: Turns) -> list[dict[str, str]]:
    """The chat messages before the model's own turn."""
    system = [] if turns.system is None else [{"role": "system", "content": turns.system}]
    worked = _worked(prompt)
    earlier = ((("user", asked), ("assistant", answer)) for asked, answer in worked.examples)
    said = [{"role": role, "content": text} for pair in earlier for role, text in pair]
    return [*system, *said, {"role": "user", "content": worked.text}]


def rendered(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, turns: Turns | None) -> str:
    """A prompt as the text to tokenise: for chat models, with the chat template's special tokens and generation prompt.

    Raises:
        ModelError: chat is configured and the tokenizer has no chat template, or the template rejects the messages.
    """
    if turns is None:
        return plain_text(prompt)
    if not tokenizer.chat_template:
        raise ModelError(
            f"{tokenizer.name_or_path}: has no chat template; if the model takes plain text, set chat: false next to its path"
        )
    arguments: dict[str, Any] = dict(turns.template or {})
    try:
        return str(
            tokenizer.apply_chat_template(messages(prompt, turns), tokenize=False, add_generation_prompt=True, **arguments)
        )
    except (TemplateError, TypeError) as error:
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template rejects the prompt ({error}); correct turns.system or turns.template"
        ) from error


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, turns: Turns | None) -> list[int]:
    """Token ids of a prompt (see `rendered`); for a plain prompt the tokenizer adds its special tokens.

    Special tokens in the text itself are read as characters (`pipeline/text_tokens.py`).
    """
    if turns is None:
        pieces = without_marks(tokenizer, plain_text(prompt))
    else:
        text = plain_text(prompt)
        cut = next(mark for mark in map(chr, range(0xE000, 0xF8FF)) if mark not in text)  # characters that no text uses
        cut_up = _worked(prompt).changed(lambda part: cut.join(without_marks(tokenizer, part)))
        pieces = rendered(tokenizer, cut_up, turns).split(cut)
    first, *others = (
        tokenizer(piece, add_special_tokens=turns is None and not number)["input_ids"] for number, piece in enumerate(pieces)
    )
    return sum(others, list(first))


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends every rationale.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ModelError(f"{tokenizer.name_or_path}: has no end-of-sequence token; use a tokenizer that defines one")
    return int(end)


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token; results do not depend on it."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def rationale_tokens(tokenizer: PreTrainedTokenizerBase, rationale: str, marks: tuple[str, str] = (START, END)) -> list[int]:
    """Token ids of a rationale as a training target: no special tokens except the `marks` of its thought, and the end of sequence."""
    return [*text_tokens(tokenizer, rationale, marks).ids, end_token(tokenizer)]
