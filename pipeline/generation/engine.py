"""Text generation behind one small protocol, with three engines: vLLM, an OpenAI-compatible server, transformers.

`open_engine` starts one, and ends it with every process it started. All return the same `Completion`s, so whoever
samples, attempts or evaluates does not know which engine ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from pipeline.config.engines import Engine as EngineConfig
from pipeline.config.models import ModelSource


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen. Temperature 0 is greedy and ignores `top_p` and seeds.

    With `likelihood` a completion says how likely it was, which takes a fifth of a small model's time. With `skip_long` a prompt
    that leaves no room for `max_tokens` is not asked, and its completion is `TOO_LONG`; without it, one such ends everything.
    """

    temperature: float
    top_p: float
    max_tokens: int
    likelihood: bool = False
    skip_long: bool = False


@dataclass(frozen=True)
class Completion:
    """One generated text. `cumulative_logprob` is under the untempered distribution; None where not wanted or not reported."""

    text: str
    finish_reason: Literal["stop", "length", "too_long"]
    prompt_tokens: int
    completion_tokens: int
    cumulative_logprob: float | None


TOO_LONG: Final = Completion("", "too_long", 0, 0, None)


class Engine(Protocol):
    """Anything that completes prompts."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        """One completion per prompt, in order; `seeds[i]` alone decides the randomness of prompt i. Threads may call it at once."""
        ...


@contextmanager
def open_engine(config: EngineConfig, model: ModelSource, arrived: Path | None = None) -> Iterator[Engine]:
    """Start the engine that `config` names on `model`, and end it.

    In the file `arrived` a server's answers are kept as they come, so that none is paid for twice; whoever has them safe removes it.
    """
    # Each engine's library takes seconds to import; only the chosen one is.
    match config.kind:
        case "vllm":
            from pipeline.generation.vllm_engine import open_vllm

            with open_vllm(config, model) as engine:
                yield engine
        case "openai":
            from pipeline.generation.openai_engine import open_openai

            with open_openai(config, model.dialogue, arrived) as engine:
                yield engine
        case "transformers":
            from pipeline.generation.transformers_engine import open_transformers

            with open_transformers(config, model) as engine:
                yield engine
