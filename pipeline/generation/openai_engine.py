"""Any OpenAI-compatible server, for example `vllm serve` on loopback. The key comes from the environment only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from openai import OpenAI, OpenAIError

from pipeline.config import Engine as EngineConfig
from pipeline.config import Turns
from pipeline.errors import EngineError
from pipeline.generation import Completion, Decoding
from pipeline.prompts import messages


class _OpenAIEngine:
    def __init__(self, client: OpenAI, model: str, chat: bool, turns: Turns | None, connections: int) -> None:
        self._client = client
        self._model = model
        self._chat = chat
        self._turns = turns
        self._connections = connections

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        with ThreadPoolExecutor(self._connections) as pool:
            futures = [pool.submit(self._one, prompt, seed, decoding) for prompt, seed in zip(prompts, seeds, strict=True)]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)  # what has not been asked yet need not be paid for
                raise

    def _one(self, prompt: str, seed: int, decoding: Decoding) -> Completion:
        settings: dict[str, Any] = {
            "model": self._model,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_tokens,
            "seed": seed,
        }
        try:
            if self._chat:
                turns: Any = messages(prompt, self._turns)
                if self._turns is not None and self._turns.template is not None:
                    settings["extra_body"] = {"chat_template_kwargs": self._turns.template}
                reply: Any = self._client.chat.completions.create(messages=turns, logprobs=True, **settings)
                choice = reply.choices[0]
                text, tokens = choice.message.content or "", choice.logprobs and choice.logprobs.content
                logprobs = [token.logprob for token in tokens] if tokens else None
            else:
                reply = self._client.completions.create(prompt=prompt, logprobs=0, **settings)
                choice = reply.choices[0]
                text, logprobs = choice.text, choice.logprobs and choice.logprobs.token_logprobs
        except OpenAIError as error:
            reason = str(error).splitlines()[0]
            raise EngineError(
                f"{self._client.base_url}: {reason}; check that the server runs and serves {self._model}"
            ) from error
        return Completion(
            text=text,
            finish_reason="stop" if choice.finish_reason == "stop" else "length",
            prompt_tokens=reply.usage.prompt_tokens,
            completion_tokens=reply.usage.completion_tokens,
            cumulative_logprob=sum(logprobs) if logprobs else None,
        )


@contextmanager
def open_openai(config: EngineConfig, chat: bool, turns: Turns | None) -> Iterator[_OpenAIEngine]:
    """Connect to `config.base_url`.

    Raises:
        EngineError: the server cannot be reached, or does not serve `config.served_model`.
    """
    client = OpenAI(base_url=config.base_url, api_key=os.environ.get(config.key_variable, "none"), max_retries=4)
    try:
        served = [model.id for model in client.models.list().data]
    except OpenAIError as error:
        raise EngineError(f"{config.base_url}: no server answers there; start one or correct engine.base_url") from error
    model = str(config.served_model)
    if model not in served:
        raise EngineError(f"{config.base_url}: serves {', '.join(served)}, not {model!r}; correct engine.served_model")
    with client:
        yield _OpenAIEngine(client, model, chat, turns, config.connections)
