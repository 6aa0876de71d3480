"""Generation engine for any OpenAI-compatible server, for example `vllm serve` on loopback.

The API key is read from the environment only. Each sample has its own seed and is therefore a request of its own; only failed requests are
retried. Transient errors are retried (`retry.py`); permanent errors, such as a rejected key, fail immediately with a one-line message. A
response must name the requested model, or `answers_as`: a gateway that falls back to another model would mix two teachers. Replies are read
as plain JSON (`server_reply.py`), because the client does not validate them. An empty text is a valid completion; it is graded `unparsed`,
and sampling draws again with another seed. A server without log-probabilities, or with another name for `max_tokens`, is asked accordingly
from its first refusal on. A whole answer has a deadline and a largest size (`bounded_requests.py`).
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple, TypeVar, get_args

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient
from tenacity import RetryCallState

from pipeline.config.engines import EngineConfig, Parameter
from pipeline.config.models import Turns
from pipeline.errors import EngineError, EngineRefused, PromptTooLong
from pipeline.generation.answer_journal import AnswerJournal, key_of
from pipeline.generation.bounded_requests import ENCODINGS, bounded_body, deadlines
from pipeline.generation.engine import TOO_LONG, Completion, Decoding, Told, until, untold
from pipeline.generation.retry import quota_exhausted, retrying
from pipeline.generation.server_reply import ErrorInReply, MalformedReply, completion_of
from pipeline.prompt_rendering import Prompt, messages, plain_text

T = TypeVar("T")
InTime = Callable[[Callable[[], Awaitable[Any]]], Any]
"""Makes a request and waits for its answer, as `bounded_requests.deadlines` gives it."""

_OPTIONAL: Final = ("top_k", "min_p", "repetition_penalty", "presence_penalty", "reasoning_effort")
"""Parameters that are sent if they are set."""
_QUIET_SECONDS: Final = 30.0
"""Minimum seconds between two log lines about retries; hundreds of requests may be waiting at once."""
_OVER_THE_CONTEXT: Final = re.compile(
    r"context[ _](?:length|size|window)|max(?:imum)?[ _]model[ _]len|tokens.{0,40}must be <=", re.IGNORECASE
)
"""Matches the messages of vLLM, OpenAI, SGLang, llama.cpp and TGI that a prompt is too long."""


class OwnServer(NamedTuple):
    """A server that this process has started (`vllm_replicas.py`): its key, how it takes a prompt, and more settings of every request."""

    key: str
    tokens: Callable[[Prompt], list[int]]
    settings: Mapping[str, Any]


class OpenAIEngine:
    """The engine on one server. `elsewhere`: another server can be asked (`several_servers.py`). `own`: it is this process's own."""

    def __init__(
        self,
        config: EngineConfig,
        turns: Turns | None,
        arrived: AnswerJournal | None,
        told: Told,
        in_time: InTime,
        elsewhere: bool = False,
        own: OwnServer | None = None,
    ) -> None:
        self._config = config
        self._elsewhere = elsewhere
        self._own = own
        self._told = told
        self._turns = turns
        self._arrived = arrived
        self._key = own.key if own is not None else os.environ.get(config.key_variable) or "none"
        self._said = -_QUIET_SECONDS
        self._renamed: dict[str, str] = {name: other or "" for name, other in (config.parameters or {}).items()}
        self.stopped = Event()
        self.pool = ThreadPoolExecutor(config.connections)
        self.in_time = in_time
        self.client = AsyncOpenAI(
            base_url=str(config.base_url),
            api_key=self._key,
            max_retries=0,
            timeout=None,
            default_headers={"Accept-Encoding": ENCODINGS},
            # The way to a server of this process's own is through no proxy.
            http_client=DefaultAsyncHttpxClient(event_hooks={"response": [bounded_body]}, trust_env=own is None),
        )

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        """One completion per prompt, in order."""
        there = self._arrived.read() if self._arrived is not None else {}
        futures = [self.pool.submit(self.one, *asked, decoding, there) for asked in zip(prompts, seeds, strict=True)]
        try:
            for future in as_completed(futures):  # the first permanent failure stops all
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            self.give_up()
            raise

    def close(self) -> None:
        """Closes all connections."""
        self.in_time(self.client.close)

    def give_up(self) -> None:
        """Cancels requests that have not been sent; waits for running ones and keeps their responses."""
        self.stopped.set()
        self.pool.shutdown(cancel_futures=True)

    def one(self, prompt: Prompt, seed: int, decoding: Decoding, there: dict[str, Completion]) -> Completion:
        """The completion of one prompt, unless it is `there`."""
        key = key_of(prompt, seed, decoding)
        if key in there:
            return there[key]
        settings: dict[str, Any] = {
            **(self._own.settings if self._own is not None else {}),
            "model": self._config.served_model,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_tokens,
            "seed": seed,
        }
        if decoding.stop:
            settings["stop"] = list(decoding.stop)
        settings |= {name: value for name in _OPTIONAL if (value := getattr(decoding, name)) is not None}
        if decoding.likelihood:
            settings["logprobs"] = 0 if self._turns is None else True
        try:
            answer = self._adapting(prompt, settings, decoding.max_tokens)
        except PromptTooLong:
            if not decoding.skip_long:
                raise
            return TOO_LONG
        # A server may ignore `stop`, so that its text runs on.
        if (text := until(answer.text, decoding.stop)) != answer.text:
            answer = replace(answer, text=text, finish_reason="stop")
        if self._arrived is not None:
            self._arrived.add(key, answer)
        self._told(answer)
        return answer

    def _adapting(self, prompt: Prompt, settings: dict[str, Any], max_tokens: int) -> Completion:
        """Asks, and asks again without a setting that the server refuses and that is not essential."""
        while True:
            taken = {self._renamed.get(name, name): value for name, value in settings.items()}
            taken.pop("", None)
            try:
                return self.patiently(partial(self._ask, prompt, taken, max_tokens))
            except EngineRefused as error:
                name = self._refused(error)
                if name is None or name not in taken:
                    raise self._named(error, taken) from error

    def _named(self, error: EngineRefused, taken: Mapping[str, Any]) -> EngineRefused:
        """The refusal, with the setting that leaves out the parameter that the server's message names."""
        if isinstance(error, PromptTooLong) or getattr(error.__cause__, "status_code", None) not in (400, 422):
            return error
        meant = {self._renamed.get(name, name): name for name in get_args(Parameter)}
        named = next(
            (meant[name] for name in taken if name in meant and re.search(rf"\b{re.escape(name)}\b", str(error))), None
        )
        if named is None:
            return error
        return EngineRefused(
            f"{error}; engine.parameters: {{{named}: null}} leaves {named} out, and {{{named}: NAME}} renames it"
        )

    def _refused(self, error: EngineRefused) -> str | None:
        """The setting that a server refuses, if it can be left out or has another name; notes this for all later requests."""
        if isinstance(error, PromptTooLong) or getattr(error.__cause__, "status_code", None) not in (400, 422):
            return None
        said = str(error)
        renamed = "max_completion_tokens" if self._turns is not None and "support" in said else None
        for name, other in (("max_tokens", renamed), ("logprobs", "")):
            if other is None:
                continue
            if re.search(rf"\b{other or name}\b", said):
                if name not in self._renamed:
                    self._renamed[name] = other
                    what = f"is called {other}" if other else "is refused, and left out"
                    print(f"{self._config.base_url}: {name} {what}", flush=True)
                return name
        return None

    def _ask(self, prompt: Prompt, settings: dict[str, Any], max_tokens: int) -> Completion:
        settings = {**settings}  # a retry asks with the same ones
        model = settings.pop("model")
        # In the body as they are: servers know more parameters, and other names, than the client.
        if self._turns is None:
            create = self.client.completions.with_raw_response.create
            asked = plain_text(prompt) if self._own is None else self._own.tokens(prompt)
            request = partial(create, model=model, prompt=asked, extra_body=settings)
        else:
            turns: Any = messages(prompt, self._turns)
            if self._turns.template is not None:
                settings["chat_template_kwargs"] = self._turns.template
            request = partial(
                self.client.chat.completions.with_raw_response.create, model=model, messages=turns, extra_body=settings
            )
        return self._read(self.in_time(request).content, max_tokens)

    def _read(self, content: bytes, max_tokens: int) -> Completion:
        config = self._config
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise MalformedReply(f"malformed response (not JSON: {error})") from error
        expected = config.answers_as or config.served_model
        named = document.get("model") if isinstance(document, dict) else None
        if named and named != expected:
            raise EngineRefused(
                f"{config.base_url}: the response names model {str(named)[:100]!r}, not {expected!r}; correct engine.served_model or, "
                "if both are the same model, set engine.answers_as"
            )
        return completion_of(
            document,
            chat=self._turns is not None,
            max_tokens=max_tokens,
            also_finished=config.finish_reasons or (),
            server=str(config.base_url),
        )

    def served(self) -> list[str] | None:
        """Names of the served models; None if the server does not list them, so that the first answer has to show it."""
        try:
            reply = self.patiently(partial(self.in_time, self.client.models.with_raw_response.list))
            listed = json.loads(reply.content)["data"]
            return [str(model["id"]) for model in listed]
        except EngineRefused as error:
            if getattr(error.__cause__, "status_code", None) not in (404, 405, 501):
                raise
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        print(
            f"{self._config.base_url}: lists no models; the first answer shows whether it has {self._config.served_model}",
            flush=True,
        )
        return None

    def require_the_model(self) -> None:
        """Ask which models are served.

        Raises:
            EngineRefused, EngineError: as `open_openai`.
        """
        config, served = self._config, self.served()
        if served is not None and config.served_model not in served:
            names = ", ".join(served[:10])
            raise EngineRefused(f"{config.base_url}: serves {names}, not {config.served_model!r}; correct engine.served_model")

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

        again = retrying(self._config.retry_seconds, self.stopped, self._say, self._elsewhere)
        try:
            return again(attempt)
        except (APIStatusError, APIConnectionError, MalformedReply, ErrorInReply) as error:
            raise self._explained(error, again.statistics.get("attempt_number", 1)) from error

    def reason(self, error: BaseException) -> str:
        """What an error says, in one line and without the key."""
        cause = f" ({error.__cause__})" if isinstance(error, APIConnectionError) and error.__cause__ else ""
        body = getattr(error, "body", None)
        detail = (
            f" ({body})" if isinstance(error, APIStatusError) and body and str(error).endswith(str(error.status_code)) else ""
        )
        return (f"{error}{cause}{detail}".splitlines() or [""])[0].replace(self._key, "***")[:300]

    def _say(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None and time.monotonic() - self._said >= _QUIET_SECONDS:
            self._said = time.monotonic()
            print(f"{self._config.base_url}: {self.reason(error)}; retrying in {state.upcoming_sleep:.1f} s", flush=True)

    def _explained(
        self, error: APIStatusError | APIConnectionError | MalformedReply | ErrorInReply, attempts: int
    ) -> EngineError:
        settings, status = self._config, getattr(error, "status_code", None)
        if status in (401, 403):
            # The server's own message may contain the key.
            return EngineRefused(
                f"{settings.base_url}: API key rejected ({status}); set {settings.key_variable} to a valid key"
            )
        said = f"{settings.base_url}: {self.reason(error)}"
        if status == 404:
            return EngineRefused(f"{said}; correct engine.served_model, {settings.served_model!r}, or engine.base_url")
        if isinstance(error, APIStatusError | ErrorInReply) and quota_exhausted(error):
            return EngineRefused(f"{said}; add credit to the account, then run again")
        if status in (400, 413, 422) and _OVER_THE_CONTEXT.search(f"{error} {getattr(error, 'body', None)}"):
            return PromptTooLong(f"{said}; lower max_tokens, or exclude long questions by max_characters of their source")
        if status is not None and status < 500 and status not in (408, 409, 425, 429):
            return EngineRefused(f"{said}; correct prompts, turns or max_tokens to values that this server accepts")
        if isinstance(error, MalformedReply) or (isinstance(error, ErrorInReply) and status is None):
            return EngineError(
                f"{said}; {attempts} such replies to one request, received responses are kept: mend the server, or give another one in "
                "engine.base_url, then run again"
            )
        return EngineError(
            f"{said}; {attempts} attempts within engine.retry_seconds {settings.retry_seconds:g}; received responses are kept: "
            "run again when the server has recovered"
        )


@contextmanager
def connected(
    config: EngineConfig,
    turns: Turns | None,
    arrived: AnswerJournal | None,
    told: Told = untold,
    elsewhere: bool = False,
    own: OwnServer | None = None,
) -> Iterator[OpenAIEngine]:
    """The engine on the one server at `config.base_url`, which has not been asked anything yet."""
    with (
        deadlines(config.request_seconds, str(config.base_url)) as in_time,
        closing(OpenAIEngine(config, turns, arrived, told, in_time, elsewhere, own)) as engine,
        engine.pool,
    ):
        yield engine


@contextmanager
def open_openai(config: EngineConfig, turns: Turns | None, arrived: Path | None, told: Told = untold) -> Iterator[OpenAIEngine]:
    """Connects to `config.base_url`; `arrived` is the journal of responses that are in no committed shard yet.

    Raises:
        EngineRefused: the server rejects requests permanently or does not serve `config.served_model`.
        EngineError: the server cannot be reached.
    """
    journal = None if arrived is None else AnswerJournal(arrived)
    with connected(config, turns, journal, told) as engine:
        engine.require_the_model()
        try:
            yield engine
        except BaseException:
            engine.give_up()
            raise
