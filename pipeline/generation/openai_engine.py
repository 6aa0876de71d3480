"""Generation engine for any OpenAI-compatible server, for example `vllm serve` on loopback.

The API key is read from the environment only. Each sample has its own seed and is therefore a request of its own; only failed requests are
retried. Transient errors are retried (`patience.py`); permanent errors, such as a rejected key, fail immediately with a one-line message. A
response must name the requested model, or `answers_as`: a gateway that falls back to another model would mix two teachers. An empty text is
a valid completion; it is graded `unparsed`, and sampling draws again with another seed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Final, TypeVar

from openai import APIConnectionError, APIStatusError, OpenAI
from tenacity import RetryCallState

from pipeline.config.engines import EngineConfig
from pipeline.config.models import Turns
from pipeline.errors import EngineError, EngineRefused, PromptTooLong
from pipeline.generation.answer_journal import AnswerJournal, key_of
from pipeline.generation.engine import TOO_LONG, Completion, Decoding
from pipeline.generation.retry import MalformedReply, quota_exhausted, retrying
from pipeline.prompt_rendering import messages

T = TypeVar("T")

_QUIET_SECONDS: Final = 30.0
"""Minimum seconds between two log lines about retries; hundreds of requests may be waiting at once."""
_OVER_THE_CONTEXT: Final = re.compile(
    r"context[ _](?:length|size|window)|max(?:imum)?[ _]model[ _]len|tokens.{0,40}must be <=", re.IGNORECASE
)
"""Matches the messages of vLLM, OpenAI, SGLang, llama.cpp and TGI that a prompt is too long."""


class _OpenAIEngine:
    def __init__(self, config: EngineConfig, turns: Turns | None, arrived: AnswerJournal | None) -> None:
        self._config = config
        self._turns = turns
        self._arrived = arrived
        self._key = os.environ.get(config.key_variable) or "none"
        self._said = -_QUIET_SECONDS
        self.stopped = Event()
        self.pool = ThreadPoolExecutor(config.connections)
        self.client = OpenAI(base_url=config.base_url, api_key=self._key, max_retries=0, timeout=config.request_seconds)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        there = self._arrived.read() if self._arrived is not None else {}
        futures = [self.pool.submit(self._one, *asked, decoding, there) for asked in zip(prompts, seeds, strict=True)]
        try:
            for future in as_completed(futures):  # the first permanent failure stops all
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Cancels requests that have not been sent; waits for running ones and keeps their responses."""
        self.stopped.set()
        self.pool.shutdown(cancel_futures=True)

    def _one(self, prompt: str, seed: int, decoding: Decoding, there: dict[str, Completion]) -> Completion:
        key = key_of(prompt, seed, decoding)
        if key in there:
            return there[key]
        settings: dict[str, Any] = {
            "model": self._config.served_model,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_tokens,
            "seed": seed,
        }
        if decoding.likelihood:
            settings["logprobs"] = 0 if self._turns is None else True
        try:
            answer = self.patiently(lambda: self._ask(prompt, settings))
        except PromptTooLong:
            if not decoding.skip_long:
                raise
            return TOO_LONG
        if self._arrived is not None:
            self._arrived.add(key, answer)
        return answer

    def _ask(self, prompt: str, settings: dict[str, Any]) -> Completion:
        try:
            if self._turns is None:
                return self._read(self.client.completions.create(prompt=prompt, **settings))
            turns: Any = messages(prompt, self._turns)
            if self._turns.template is not None:
                settings = {**settings, "extra_body": {"chat_template_kwargs": self._turns.template}}
            return self._read(self.client.chat.completions.create(messages=turns, **settings))
        except EngineRefused:
            raise
        except (ValueError, AttributeError, IndexError, TypeError) as error:  # the client does not validate responses
            raise MalformedReply(f"malformed response ({type(error).__name__}: {error})") from error

    def _read(self, reply: Any) -> Completion:
        expected = self._config.answers_as or self._config.served_model
        if reply.model and reply.model != expected:
            raise EngineRefused(
                f"{self._config.base_url}: the response names model {reply.model!r}, not {expected!r}; correct engine.served_model or, "
                "if both are the same model, set engine.answers_as"
            )
        choice = reply.choices[0]
        if self._turns is not None:
            text, tokens = choice.message.content or "", choice.logprobs and choice.logprobs.content
            logprobs = [token.logprob for token in tokens] if tokens else None
        else:
            text, logprobs = choice.text, choice.logprobs and choice.logprobs.token_logprobs
        return Completion(
            text=text,
            finish_reason="stop" if choice.finish_reason == "stop" else "length",
            prompt_tokens=reply.usage.prompt_tokens,
            completion_tokens=reply.usage.completion_tokens,
            cumulative_logprob=sum(logprobs) if logprobs else None,
        )

    def patiently(self, request: Callable[[], T]) -> T:
        """Executes a request, retrying transient failures.

        Raises:
            EngineRefused: a permanent failure.
            EngineError: a transient failure that exceeded the time budget.
        """

        def attempt() -> T:
            if self.stopped.is_set():
                raise EngineError(f"{self._config.base_url}: request cancelled, because another request failed; run again")
            return request()

        again = retrying(self._config.retry_seconds, self.stopped, self._say)
        try:
            return again(attempt)
        except (APIStatusError, APIConnectionError, MalformedReply) as error:
            raise self._explained(error, again.statistics.get("attempt_number", 1)) from error

    def _reason(self, error: BaseException) -> str:
        cause = f" ({error.__cause__})" if isinstance(error, APIConnectionError) and error.__cause__ else ""
        return (f"{error}{cause}".splitlines() or [""])[0].replace(self._key, "***")[:300]

    def _say(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None and time.monotonic() - self._said >= _QUIET_SECONDS:
            self._said = time.monotonic()
            print(f"{self._config.base_url}: {self._reason(error)}; retrying in {state.upcoming_sleep:.1f} s", flush=True)

    def _explained(self, error: APIStatusError | APIConnectionError | MalformedReply, attempts: int) -> EngineError:
        settings, status = self._config, getattr(error, "status_code", None)
        if status in (401, 403):
            # The server's own message may contain the key.
            return EngineRefused(
                f"{settings.base_url}: API key rejected ({status}); set {settings.key_variable} to a valid key"
            )
        said = f"{settings.base_url}: {self._reason(error)}"
        if status == 404:
            return EngineRefused(f"{said}; correct engine.served_model, {settings.served_model!r}, or engine.base_url")
        if isinstance(error, APIStatusError) and quota_exhausted(error):
            return EngineRefused(f"{said}; add credit to the account, then run again")
        if status in (400, 413, 422) and _OVER_THE_CONTEXT.search(f"{error} {getattr(error, 'body', None)}"):
            return PromptTooLong(f"{said}; lower max_tokens, or exclude long questions by max_characters of their source")
        if status is not None and status < 500 and status not in (408, 409, 425, 429):
            return EngineRefused(f"{said}; correct prompts, turns or max_tokens to values that this server accepts")
        return EngineError(
            f"{said}; {attempts} attempts within engine.retry_seconds {settings.retry_seconds:g}; received responses are kept: "
            "run again when the server has recovered"
        )


@contextmanager
def open_openai(config: EngineConfig, turns: Turns | None, arrived: Path | None) -> Iterator[_OpenAIEngine]:
    """Connects to `config.base_url`; `arrived` is the journal of responses that are in no committed shard yet.

    Raises:
        EngineRefused: the server rejects requests permanently or does not serve `config.served_model`.
        EngineError: the server cannot be reached.
    """
    engine = _OpenAIEngine(config, turns, None if arrived is None else AnswerJournal(arrived))
    with engine.client, engine.pool:
        served = [model.id for model in engine.patiently(lambda: engine.client.models.list().data)]
        if config.served_model not in served:
            names = ", ".join(served[:10])
            raise EngineRefused(f"{config.base_url}: serves {names}, not {config.served_model!r}; correct engine.served_model")
        try:
            yield engine
        except BaseException:
            engine.give_up()
            raise
