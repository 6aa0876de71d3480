"""The protocol of a text generation engine: prompts, seeds and decoding settings in, completions out.

Three engines implement it: vLLM, in this process or as several copies; OpenAI-compatible servers, asked at once or in batches; and plain
transformers. Sampling, attempts and evaluation use the protocol alone, so they do not know which engine runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

from pipeline.config.sampling import Sampling
from pipeline.prompt_rendering import Prompt

FinishReason = Literal["stop", "length", "too_long"]
"""How a text ended: by itself, at the limit of tokens, or never started."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen. Temperature 0 is greedy and ignores seeds and what limits a choice; penalties count all the same.

    With `likelihood` a completion says how likely it was, which takes a fifth of a small model's time. With `skip_long` a prompt
    that leaves no room for `max_tokens` is not asked, and its completion is `TOO_LONG`; without it, one such ends everything. A text ends
    before the first of the `stop` texts, and has then finished.
    """

    temperature: float
    top_p: float
    max_tokens: int
    likelihood: bool = False
    skip_long: bool = False
    stop: tuple[str, ...] = ()
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None


def sampling_decoding(settings: Sampling) -> Decoding:
    """How the teacher's tokens are chosen."""
    return Decoding(
        settings.temperature,
        settings.top_p,
        settings.max_tokens,
        likelihood=True,
        top_k=settings.top_k,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
        presence_penalty=settings.presence_penalty,
        reasoning_effort=settings.reasoning_effort,
    )


@dataclass(frozen=True)
class Completion:
    """One generated text. `cumulative_logprob` is under the untempered distribution; None where not wanted or not reported."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cumulative_logprob: float | None

    @property
    def usable(self) -> bool:
        """Whether every field has its type; a completion read from outside may not."""
        counts = (self.prompt_tokens, self.completion_tokens)
        return (
            isinstance(self.text, str)
            and self.finish_reason in get_args(FinishReason)
            and all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
            and (self.cumulative_logprob is None or isinstance(self.cumulative_logprob, float))
        )


Told = Callable[[Completion], None]
"""Called with every text as soon as it is complete, from any thread; not for texts of an earlier process."""


def untold(_: Completion) -> None:
    """Nobody wants to know."""


TOO_LONG: Final = Completion("", "too_long", 0, 0, None)


def until(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop texts; all of it if it has none."""
    return text[: min((place for mark in stop if (place := text.find(mark)) >= 0), default=len(text))]


class Engine(Protocol):
    """Anything that completes prompts."""

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        """One completion per prompt, in order; `seeds[i]` alone decides the randomness of prompt i. Threads may call it at once."""
        ...
