"""Generation engine on vLLM in the current process.

With a GPU, vLLM's engine core is a child process that is terminated on exit. On a CPU the core runs in this process: two more processes
take half a minute to start and would compete with this one for cores. The exception is a process that has trained: vLLM would destroy the
process group that its training, and the next one, use.

Our choices: eager execution on a CPU, because compilation takes longer than it saves for tiny models; prefix caching, so that the
perspectives of one question share its tokens; no chunked prefill on a CPU, because vLLM's seeded requests crash there when a prompt is
split between steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from pydantic import ValidationError

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel, Weights
from pipeline.errors import EngineError
from pipeline.generation.engine import TOO_LONG, Completion, Decoding, Told, untold
from pipeline.generation.vllm_thread import Driver
from pipeline.model_thoughts import special_marks, without_other_tokens
from pipeline.prompt_rendering import Prompt, prompt_tokens

if TYPE_CHECKING:
    from vllm import LLM

GIB = 1 << 30


class _VllmEngine:
    def __init__(self, llm: LLM, driver: Driver, model: Weights) -> None:
        self._driver = driver
        self._turns = model.dialogue
        self._tokenizer = llm.get_tokenizer()
        self._marks = special_marks(self._tokenizer, model.thought_marks)
        self._context = llm.model_config.max_model_len

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        from vllm import SamplingParams

        greedy = decoding.temperature == 0
        settings = [
            SamplingParams(
                temperature=decoding.temperature,
                top_p=1.0 if greedy else decoding.top_p,
                top_k=0 if greedy or decoding.top_k is None else decoding.top_k,
                min_p=0.0 if greedy or decoding.min_p is None else decoding.min_p,
                repetition_penalty=1.0 if decoding.repetition_penalty is None else decoding.repetition_penalty,
                presence_penalty=decoding.presence_penalty or 0.0,
                max_tokens=decoding.max_tokens,
                seed=None if greedy else seed,
                logprobs=0 if decoding.likelihood else None,
                stop=list(decoding.stop),
                skip_special_tokens=not self._marks,
            )
            for seed in seeds
        ]
        tokens = (prompt_tokens(self._tokenizer, prompt, self._turns) for prompt in prompts)
        requests: list[Any] = [{"prompt_token_ids": ids} for ids in tokens]
        room = self._context - decoding.max_tokens
        asked = [n for n, one in enumerate(requests) if not decoding.skip_long or len(one["prompt_token_ids"]) <= room]
        outputs = self._driver.outputs([requests[n] for n in asked], [settings[n] for n in asked])
        found = dict(zip(asked, map(_completion, outputs), strict=True))
        if self._marks:
            clean = partial(without_other_tokens, self._tokenizer, kept=self._marks)
            found = {n: replace(said, text=clean(said.text)) for n, said in found.items()}
        return [found.get(n, TOO_LONG) for n in range(len(prompts))]


def _completion(output: Any) -> Completion:
    best = output.outputs[0]
    return Completion(
        text=best.text,
        finish_reason="stop" if best.finish_reason == "stop" else "length",
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(best.token_ids),
        cumulative_logprob=best.cumulative_logprob,
    )


def llm_settings(config: EngineConfig) -> dict[str, Any]:
    """vLLM's settings other than the model."""
    device: dict[str, Any] = (
        {"gpu_memory_utilization": config.gpu_memory_utilization}
        if torch.cuda.is_available()
        else {"kv_cache_memory_bytes": int(config.kv_cache_gib * GIB), "enable_chunked_prefill": False, "enforce_eager": True}
    )
    return {
        "dtype": config.dtype,
        "max_model_len": config.max_context,
        "max_num_batched_tokens": max(config.max_context, 8192),
        "max_num_seqs": config.max_sequences,
        "tensor_parallel_size": config.tensor_parallel,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        **device,
    }


@contextmanager
def running_llm(config: EngineConfig, model: Weights, **more: Any) -> Iterator[LLM]:
    """vLLM on `model`; `more` are further settings of it.

    Raises:
        EngineError: vLLM could not start.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if isinstance(model, LocalModel):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not torch.cuda.is_available() and config.tensor_parallel == 1:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(dist.is_initialized()))
    from vllm import LLM

    try:
        llm = LLM(
            model=model.location,
            revision=model.revision,
            trust_remote_code=False,
            **llm_settings(config) | more,
        )
    except (RuntimeError, ValueError, OSError) as error:
        # The first line of pydantic's message only counts errors.
        reason = (error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)).splitlines()[0]
        raise EngineError(f"vLLM could not start on {model.location}: {reason}; see the stage's log") from error
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


@contextmanager
def open_vllm(config: EngineConfig, model: Weights, told: Told = untold) -> Iterator[_VllmEngine]:
    """Starts vLLM on `model`.

    Raises:
        EngineError: vLLM could not start.
    """
    with running_llm(config, model) as llm:
        driver = Driver(llm, config.stall_seconds, lambda output: told(_completion(output)))
        try:
            yield _VllmEngine(llm, driver, model)
        finally:
            driver.stop()
