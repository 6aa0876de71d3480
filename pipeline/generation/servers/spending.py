"""Counts the tokens that a server is paid for, and ends the stage before they cost more than the limit.

The ledger is a file beside the answer journal with running totals. It is rewritten in place by one small write per reply, so a killed
process loses at most the reply that it was reading. A reply counts as soon as its usage is read, also if its text is unusable: it is paid
for all the same. A reply from the journal was counted when it arrived.

The limit holds for requests in flight, too. Each reserves the most that it can cost: a token for every byte of its prompt, a margin for
the chat template, and `max_tokens` of output. A request that does not fit waits until others have ended, which mostly cost less than they
reserved. If none is in flight and it still does not fit, the stage ends.

Our choices: the bound on a prompt's tokens, and that a server's own batch or night prices are given as the prices.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Event
from typing import Final, NamedTuple

from pipeline.config.engines import EngineConfig, Prices
from pipeline.errors import EngineError

_TEMPLATE_TOKENS: Final = 256
"""Most tokens that a server's chat template adds to a prompt (our choice)."""
_LOOK_SECONDS: Final = 0.2
_DIGITS: Final = 18


class SpendingLimit(EngineError):
    """What comes next could cost more than is left."""


class Usage(NamedTuple):
    """Requests that were answered, and their tokens. `cached` of the `input` tokens were in the server's prompt cache."""

    requests: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0

    def cost(self, prices: Prices) -> float:
        """What it costs, in the prices' currency."""
        cached = prices.input if prices.cached_input is None else prices.cached_input
        return ((self.input - self.cached) * prices.input + self.cached * cached + self.output * prices.output) / 1e6


NOTHING: Final = Usage()


def sum_of(found: Iterable[Usage]) -> Usage:
    """The sum of several."""
    return Usage(*map(sum, zip(NOTHING, *found, strict=True)))


def ledger_file(arrived: Path) -> Path:
    """The ledger beside an answer journal."""
    return arrived.with_suffix(".spent")


def read_ledger(path: Path) -> Usage:
    """The totals in a ledger; `NOTHING` if there is none."""
    try:
        return Usage._make(map(int, path.read_bytes().split()))
    except (OSError, ValueError, TypeError):
        return NOTHING


def raise_to(path: Path, floor: Usage) -> None:
    """Raise the totals to what committed shards are known to have used: another machine may have written them."""
    found = read_ledger(path)
    raised = Usage(*map(max, zip(found, floor, strict=True)))
    if raised != found:
        _write(path, raised)


def _write(path: Path, totals: Usage) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, b" ".join(b"%0*d" % (_DIGITS, count) for count in totals) + b"\n", 0)
    finally:
        os.close(file)


def in_money(amount: float, currency: str) -> str:
    """An amount for people: cents, or four digits below one."""
    return f"{amount:,.2f} {currency}" if amount >= 1 else f"{amount:.4f} {currency}"


class Spending:
    """The totals of one engine, and the room that is left below its limit. Threads may use it at once."""

    def __init__(self, config: EngineConfig, arrived: Path | None) -> None:
        self._prices, self._limit = config.prices, config.spending_limit
        self._name = config.where
        self._path = None if arrived is None else ledger_file(arrived)
        self._total = NOTHING if self._path is None else read_ledger(self._path)
        self._in_flight: list[float] = []
        self._changed = Condition()

    def add(self, usage: Usage) -> None:
        """Count one reply."""
        with self._changed:
            self._total = sum_of((self._total, usage))
            if self._path is not None:
                _write(self._path, self._total)

    def bound(self, prompt_bytes: int, max_tokens: int, requests: int = 1) -> float:
        """The most that requests can cost together; 0 without a limit."""
        if self._prices is None or self._limit is None:
            return 0.0
        dearest = self._prices.model_copy(update={"input": max(self._prices.input, self._prices.cached_input or 0.0)})
        return Usage(input=prompt_bytes + requests * _TEMPLATE_TOKENS, output=requests * max_tokens).cost(dearest)

    @contextmanager
    def reserved(self, most: float, stopped: Event) -> Iterator[None]:
        """Reserve an amount while the body runs, which counts its replies. Waits for room while others are in flight; `stopped` ends that.

        Raises:
            SpendingLimit: it is more than is left.
        """
        self.reserve(most, stopped)
        try:
            yield
        finally:
            self.release(most)

    def reserve(self, most: float, stopped: Event | None = None) -> None:
        """Reserve an amount until `release`; without `stopped`, at once or not at all.

        Raises:
            SpendingLimit: it is more than is left.
        """
        with self._changed:
            while not self._fits(most):
                if stopped is not None and stopped.is_set():
                    raise EngineError(f"{self._name}: request cancelled, because another request failed; run again")
                if stopped is None or not self._in_flight:
                    raise self._over(most)
                self._changed.wait(_LOOK_SECONDS)
            self._in_flight.append(most)

    def keep(self, most: float) -> None:
        """Reserve an amount for requests that are under way already, whether there is room or not."""
        with self._changed:
            self._in_flight.append(most)

    def release(self, most: float) -> None:
        """End a reservation."""
        with self._changed:
            self._in_flight.remove(most)
            self._changed.notify_all()

    def _fits(self, most: float) -> bool:
        if self._prices is None or self._limit is None:
            return True
        return self._total.cost(self._prices) + sum(self._in_flight) + most <= self._limit

    def _over(self, most: float) -> SpendingLimit:
        assert self._prices is not None and self._limit is not None, "there is a limit"
        amounts = (self._total.cost(self._prices), sum(self._in_flight) + most, self._limit)
        spent, bound, limit = (in_money(amount, self._prices.currency) for amount in amounts)
        return SpendingLimit(
            f"{self._name}: {spent} spent, and what comes next can cost {bound}, more than is left of engine.spending_limit {limit}; "
            "received responses are kept: raise the limit, then run again"
        )
