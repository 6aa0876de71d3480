"""Teacher scores by vLLM in this process: the log-probabilities of a prompt's tokens, where the text is a part of the prompt.

vLLM computes the logits of a whole step's tokens for them, so a step has fewer tokens here than while it samples.

Axes: T tokens of a text, C the teacher's most likely tokens of a position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch

from pipeline.config.engines import EngineConfig
from pipeline.config.models import Weights
from pipeline.errors import EngineError
from pipeline.generation.vllm_engine import running_llm
from pipeline.generation.vllm_thread import Driver
from pipeline.prompt_rendering import prompt_tokens
from pipeline.teacher_scores.scores import Given, Scores

_STEP_TOKENS: Final = 2048
"""Tokens of a step on a GPU: with a vocabulary of 152,000, their logits take 1.2 GB."""


class VllmScores:
    """Implements `TeacherScores` on a running vLLM."""

    def __init__(self, tokenizer: Any, driver: Driver, model: Weights, context: int) -> None:
        self._driver = driver
        self._context = context
        self._tokenizer = tokenizer
        self._turns = model.dialogue

    def score(self, given: Sequence[Given], top_k: int) -> list[Scores]:
        from vllm import SamplingParams

        settings = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=top_k, flat_logprobs=True, detokenize=False)
        prompts = (prompt_tokens(self._tokenizer, one.prompt, self._turns) for one in given)
        requests = [{"prompt_token_ids": [*prompt, *one.text]} for prompt, one in zip(prompts, given, strict=True)]
        longest = max((len(one["prompt_token_ids"]) for one in requests), default=0)
        if longest >= self._context:
            raise EngineError(
                f"a prompt with the text to score has {longest} tokens, and the teacher's engine holds {self._context - 1}; raise its "
                "max_context, or lower training.max_length"
            )
        outputs = self._driver.outputs(requests, [settings] * len(requests))
        return [_scores(output.prompt_logprobs, len(one.text), top_k) for output, one in zip(outputs, given, strict=True)]


def _scores(found: Any, tokens: int, top_k: int) -> Scores:
    """The last `tokens` positions. Each lists the given token first, then the most likely ones."""
    ids_TC, logprobs_TC = np.empty((tokens, top_k), np.int32), np.empty((tokens, top_k), np.float32)
    for row, (first, last) in enumerate(zip(found.start_indices[-tokens:], found.end_indices[-tokens:], strict=True)):
        if last - first != top_k + 1:
            raise EngineError(
                f"vLLM gave {last - first - 1} log-probabilities of a token, not {top_k}; use another version of vLLM"
            )
        ids_TC[row], logprobs_TC[row] = found.token_ids[first + 1 : last], found.logprobs[first + 1 : last]
    return Scores(ids_TC, logprobs_TC)


@contextmanager
def open_vllm_scores(config: EngineConfig, model: Weights, top_k: int) -> Iterator[VllmScores]:
    """Starts vLLM on `model`, as one copy.

    Raises:
        EngineError: vLLM could not start.
    """
    more: dict[str, Any] = {"max_logprobs": top_k}
    if torch.cuda.is_available():
        more["max_num_batched_tokens"] = _STEP_TOKENS
    with running_llm(config, model, **more) as llm:
        driver = Driver(llm, config.stall_seconds)
        try:
            yield VllmScores(llm.get_tokenizer(), driver, model, config.max_context)
        finally:
            driver.stop()
