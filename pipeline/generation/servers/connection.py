"""A connection to an OpenAI-compatible server: requests are repeated while their failure passes, and a lasting one becomes one line.

The API key is read from the environment only, and shown nowhere. A whole answer has a deadline and a largest size (`bounded_requests.py`);
transient errors are retried (`retry.py`).
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from threading import Event
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient
from tenacity import RetryCallState

from pipeline.config.engines import EngineConfig
from pipeline.errors import EngineError, EngineRefused, PromptTooLong
from pipeline.generation.servers.bounded_requests import ENCODINGS, bounded_body, deadlines
from pipeline.generation.servers.reply import ErrorInReply, MalformedReply
from pipeline.generation.servers.retry import quota_exhausted, retrying
from pipeline.prompt_rendering import Prompt

T = TypeVar("T")
InTime = Callable[[Callable[[], Awaitable[Any]]], Any]
"""Makes a request and waits for its answer, as `bounded_requests.deadlines` gives it."""
Failure: TypeAlias = APIStatusError | APIConnectionError | MalformedReply | ErrorInReply
"""How a request fails."""

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


class ServerConnection:
    """The client, and what it does about failures. When `stopped` is set, nothing more is sent.

    `elsewhere`: another server can be asked (`several_servers.py`). `own`: the server is this process's own.
    """

    def __init__(self, config: EngineConfig, in_time: InTime, elsewhere: bool = False, own: OwnServer | None = None) -> None:
        self._config = config
        self._elsewhere = elsewhere
        self._key = own.key if own is not None else os.environ.get(config.key_variable) or "none"
        self._said = -_QUIET_SECONDS
        self.stopped = Event()
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

    def close(self) -> None:
        """Closes all connections."""
        self.in_time(self.client.close)

    def check_model(self) -> None:
        """Checks that the server lists the model, if it lists any.

        Raises:
            EngineRefused: it serves others, or rejects requests permanently.
            EngineError: it cannot be reached.
        """
        config, served = self._config, self._served()
        if served is not None and config.served_model not in served:
            names = ", ".join(served[:10])
            raise EngineRefused(f"{config.base_url}: serves {names}, not {config.served_model!r}; correct engine.served_model")

    def _served(self) -> list[str] | None:
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

    def patiently(self, request: Callable[[], T], remedy: str | None = None) -> T:
        """Executes a request, retrying transient failures. `remedy` is of a request that is about no prompt.

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
            raise self.explained(error, again.statistics.get("attempt_number", 1), remedy) from error

    def reason(self, error: BaseException) -> str:
        """What failed, in one line without the key."""
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

    def explained(self, error: Failure, attempts: int, remedy: str | None = None) -> EngineError:
        """The error that ends the stage, with what to do about it."""
        settings, status = self._config, getattr(error, "status_code", None)
        if status in (401, 403):
            # The server's own message may contain the key.
            return EngineRefused(
                f"{settings.base_url}: API key rejected ({status}); set {settings.key_variable} to a valid key"
            )
        said = f"{settings.base_url}: {self.reason(error)}"
        if status == 404:
            return EngineRefused(
                f"{said}; {remedy or f'correct engine.served_model, {settings.served_model!r}, or engine.base_url'}"
            )
        if isinstance(error, APIStatusError | ErrorInReply) and quota_exhausted(error):
            return EngineRefused(f"{said}; add credit to the account, then run again")
        if remedy is None and status in (400, 413, 422) and _OVER_THE_CONTEXT.search(f"{error} {getattr(error, 'body', None)}"):
            return PromptTooLong(f"{said}; lower max_tokens, or exclude long questions by max_characters of their source")
        if status is not None and status < 500 and status not in (408, 409, 425, 429):
            return EngineRefused(
                f"{said}; {remedy or 'correct prompts, turns or max_tokens to values that this server accepts'}"
            )
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
def connected(config: EngineConfig, elsewhere: bool = False, own: OwnServer | None = None) -> Iterator[ServerConnection]:
    """A connection to the one server at `config.base_url`, which has not been asked anything yet."""
    with (
        deadlines(config.request_seconds, str(config.base_url)) as in_time,
        closing(ServerConnection(config, in_time, elsewhere, own)) as server,
    ):
        yield server
