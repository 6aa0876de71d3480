"""Counts the tokens that a server is paid for, and ends the stage before they cost more than the limit.

The ledger is a file beside the answer journal with three sums: what replies said they used; the most that requests without a usable
statement can have used (no reply came, or one without numbers); and the most that requests in flight can use. It is rewritten in place by
one small write when a request is sent and when its reply is read. After a kill, what was in flight counts as the second kind. A reply
counts also if its text is unusable: it is paid for all the same. A reply from the journal was counted when it arrived.

The limit holds for all three sums. A request reserves the most that it can cost: a token for every byte of its prompt, a margin for the
chat template, and `max_tokens` of output. The margin grows with what replies state, so the first request is made alone. A request that
does not fit waits until others have ended, which mostly cost less than they reserved. If none is in flight and it still does not fit, the
stage ends.

Our choices: the bound on a prompt's tokens, and that a server's own batch or night prices are given as the prices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
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


class DamagedLedger(EngineError):
    """A ledger that is none."""


class Usage(NamedTuple):
    """Requests, and their tokens. `cached` of the `input` tokens were in the server's prompt cache."""

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


def _without(one: Usage, other: Usage) -> Usage:
    return Usage(*(mine - theirs for mine, theirs in zip(one, other, strict=True)))


class Ledger(NamedTuple):
    """What replies stated; the most that requests without a statement can have used; the most that those in flight can use."""

    stated: Usage = NOTHING
    lost: Usage = NOTHING
    in_flight: Usage = NOTHING


def ledger_file(arrived: Path) -> Path:
    """The ledger beside an answer journal."""
    return arrived.with_suffix(".spent")


def read_ledger(path: Path) -> Ledger:
    """The sums in a ledger; all zero if there is none.

    Raises:
        DamagedLedger: the file is none.
    """
    try:
        found = [Usage._make(map(int, line.split())) for line in path.read_bytes().splitlines()]
        ledger = Ledger._make(found)
    except FileNotFoundError:
        return Ledger()
    except (OSError, ValueError, TypeError) as error:
        raise DamagedLedger(_DAMAGED.format(path=path)) from error
    if any(not 0 <= one.cached <= one.input or min(one) < 0 for one in ledger):
        raise DamagedLedger(_DAMAGED.format(path=path))
    return ledger


_DAMAGED: Final = "{path}: what was paid so far cannot be read; remove the file to count anew, or write the sums into it"


def raise_to(path: Path, floor: Usage) -> None:
    """Raise what replies stated to what committed shards are known to have used: another machine may have written them."""
    try:
        found = read_ledger(path)
    except DamagedLedger:  # told where it matters
        return
    raised = Usage(*map(max, zip(found.stated, floor, strict=True)))
    if raised != found.stated:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, found._replace(stated=raised))


def _write(path: Path, ledger: Ledger) -> None:
    lines = [b" ".join(b"%0*d" % (_DIGITS, count) for count in usage) + b"\n" for usage in ledger]
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, b"".join(lines), 0)
    finally:
        os.close(file)


def in_money(amount: float, currency: str) -> str:
    """An amount for people: cents, or four digits below one."""
    return f"{amount:,.2f} {currency}" if amount >= 1 else f"{amount:.4f} {currency}"


Counted = Callable[[Usage | None], None]
"""Called with what a reply states, or None if it was not paid for; not called if that is unknown."""


class Spending:
    """The ledger of one engine, and the room that is left below its limit. Threads may use it at once.

    Raises:
        DamagedLedger: there is a limit, and what was paid so far cannot be read.
    """

    def __init__(self, config: EngineConfig, arrived: Path | None) -> None:
        self._prices, self._limit = config.prices, config.spending_limit
        self._name = config.where
        self._path = None if arrived is None else ledger_file(arrived)
        self._changed = Condition()
        self._margin = _TEMPLATE_TOKENS
        self._ledger = Ledger() if self._path is None else self._read(self._path)

    def _read(self, path: Path) -> Ledger:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = read_ledger(path)
        except DamagedLedger:
            if self._limit is not None:
                raise
            return Ledger()
        return Ledger(found.stated, sum_of((found.lost, found.in_flight)))

    @property
    def stated(self) -> Usage:
        """What replies stated until now."""
        return self._ledger.stated

    def bound(self, prompt_bytes: int, max_tokens: int, requests: int = 1) -> Usage:
        """The most that requests can use together."""
        return Usage(requests, prompt_bytes + requests * self._margin, 0, requests * max_tokens)

    @contextmanager
    def request(self, prompt_bytes: int, max_tokens: int, stopped: Event) -> Iterator[Counted]:
        """One request: the body sends it, and calls what this yields. Waits for room while others are in flight; `stopped` ends that.

        Raises:
            SpendingLimit: it could cost more than is left.
            EngineError: `stopped` was set.
        """
        with self._changed:
            while not self._fits(most := self.bound(prompt_bytes, max_tokens)) or self._is_first_in_flight():
                if stopped.is_set():
                    raise EngineError(f"{self._name}: request cancelled, because another request failed; run again")
                if not self._ledger.in_flight.requests:
                    raise self._over(most)
                self._changed.wait(_LOOK_SECONDS)
            self._change(in_flight=most)
        told: list[Usage | None] = []
        try:
            yield told.append
        finally:
            used = told[0] if told else NOTHING
            if used is not None and used.requests:
                self._margin = max(self._margin, used.input - prompt_bytes)
            self.end(most, stated=used or NOTHING, lost=NOTHING if told else most)

    def reserve(self, most: Usage) -> None:
        """Reserve room until `end`, at once or not at all.

        Raises:
            SpendingLimit: it is more than is left.
        """
        with self._changed:
            if not self._fits(most):
                raise self._over(most)
            self._change(in_flight=most)

    def keep(self, most: Usage) -> None:
        """Reserve room for requests that are under way already, whether there is any or not. An earlier process reserved it, too."""
        with self._changed:
            lost = Usage(*map(min, zip(self._ledger.lost, most, strict=True)))
            self._change(in_flight=most, lost=_without(NOTHING, lost))

    def end(self, most: Usage, stated: Usage = NOTHING, lost: Usage = NOTHING) -> None:
        """End a reservation, with what replies stated, and the most that those without a statement can have used."""
        with self._changed:
            self._change(stated=stated, lost=lost, in_flight=_without(NOTHING, most))
            self._changed.notify_all()

    def _change(self, stated: Usage = NOTHING, lost: Usage = NOTHING, in_flight: Usage = NOTHING) -> None:
        self._ledger = Ledger._make(map(sum_of, zip(self._ledger, (stated, lost, in_flight), strict=True)))
        if self._path is not None:
            _write(self._path, self._ledger)

    def _is_first_in_flight(self) -> bool:
        """Whether a request is in flight, and no reply has shown yet what the server adds to a prompt."""
        return self._limit is not None and not self._ledger.stated.requests and bool(self._ledger.in_flight.requests)

    def _fits(self, most: Usage) -> bool:
        return self._limit is None or self._cost(sum_of((*self._ledger, most))) <= self._limit

    def _cost(self, usage: Usage) -> float:
        """At the dearest price of a token: what is bounded may cost as much."""
        assert self._prices is not None, "a limit has prices"
        stated = self._ledger.stated
        rest = _without(usage, stated)
        dearest = self._prices.model_copy(update={"input": max(self._prices.input, self._prices.cached_input or 0.0)})
        return stated.cost(self._prices) + rest._replace(cached=0).cost(dearest)

    def _over(self, most: Usage) -> SpendingLimit:
        assert self._prices is not None and self._limit is not None, "there is a limit"
        known = self._cost(sum_of((self._ledger.stated, self._ledger.lost)))
        amounts = (known, self._cost(sum_of((*self._ledger, most))) - known, self._limit)
        spent, bound, limit = (in_money(amount, self._prices.currency) for amount in amounts)
        return SpendingLimit(
            f"{self._name}: {spent} spent, and what comes next can cost {bound}, more than is left of engine.spending_limit {limit}; "
            "received responses are kept: raise the limit, then run again"
        )
