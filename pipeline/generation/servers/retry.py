"""Retries transient server errors with exponential backoff and jitter, within a time budget per request.

The OpenAI client's own retries count attempts; the budget here is in seconds, so tenacity retries and the client does not. Transient
errors: no connection or a broken one, a timeout, a busy server (429, unless the quota is exhausted), a server error (5xx). `Retry-After` is
respected. Where another server can be asked, a refused connection is not retried. An error that a server reports inside a reply of status
200 counts like its own status. A complete response without a usable completion was paid for, so it is requested at most three times.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from threading import Event
from time import time
from typing import Final

from httpx2 import ConnectError
from openai import APIConnectionError, APIStatusError
from tenacity import (
    RetryCallState,
    Retrying,
    sleep_using_event,
    stop_any,
    stop_before_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from pipeline.generation.servers.reply import ErrorInReply, MalformedReply

_PASSING: Final = frozenset({408, 409, 425, 429})
_TRIES_OF_UNUSABLE: Final = 3
_BACKOFF: Final = wait_random_exponential(multiplier=0.5, max=30)


def quota_exhausted(error: APIStatusError | ErrorInReply) -> bool:
    """Whether a 429 reports an exhausted quota, which retrying cannot fix."""
    return bool(error.code == "insufficient_quota")


def nobody_listens(error: BaseException | None) -> bool:
    """Whether no connection came about: refused, no way to the host, or no such host."""
    return isinstance(error, APIConnectionError) and isinstance(error.__cause__, ConnectError)


def passing(error: BaseException | None) -> bool:
    """Whether the same request may succeed later."""
    match error:
        case MalformedReply() | ErrorInReply(status_code=None):
            return True
        case APIStatusError() | ErrorInReply():
            status = int(error.status_code or 0)
            return (status in _PASSING and not quota_exhausted(error)) or status >= 500
    return isinstance(error, APIConnectionError)


def _passes(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome is not None else None
    unusable = isinstance(error, MalformedReply) or (isinstance(error, ErrorInReply) and error.status_code is None)
    return passing(error) and (not unusable or state.attempt_number < _TRIES_OF_UNUSABLE)


def _passes_elsewhere(state: RetryCallState) -> bool:
    return _passes(state) and not nobody_listens(state.outcome.exception() if state.outcome is not None else None)


def retry_after_seconds(value: str | None) -> float:
    """Seconds to wait according to a `Retry-After` header; 0 if it is missing or invalid."""
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(str(value)).timestamp() - time())
    except ValueError:
        return 0.0


def asked_to_wait(error: BaseException | None) -> float:
    """Seconds for which a server asks to be left alone."""
    return retry_after_seconds(error.response.headers.get("retry-after") if isinstance(error, APIStatusError) else None)


def _wait(state: RetryCallState) -> float:
    return asked_to_wait(state.outcome.exception() if state.outcome is not None else None) + _BACKOFF(state)


def retrying(budget_seconds: float, stopped: Event, say: Callable[[RetryCallState], None], elsewhere: bool = False) -> Retrying:
    """A retrying caller: calls a function until it succeeds, fails permanently, or the budget would be exceeded.

    With `elsewhere`, another server can be asked. `say` is called before every wait. `stopped` ends all waits. The last error is re-raised
    unchanged.
    """
    return Retrying(
        retry=_passes_elsewhere if elsewhere else _passes,
        wait=_wait,
        stop=stop_any(stop_before_delay(budget_seconds), stop_when_event_set(stopped)),
        sleep=sleep_using_event(stopped),
        before_sleep=say,
        reraise=True,
    )
