"""Generation engine over several servers with the same model: each request goes to whoever is free.

Seeds decide what a request's text is, so that it does not matter who answers it. Every address has an engine of its own
(`openai_engine.py`) with `engine.connections` requests in flight, and waiting requests go to the address with the fewest.

An address is left out if nobody listens there, or if a request fails there for `PATIENCE_SECONDS` while no other one succeeds. (If others
succeed, it is the request that is difficult: it alone is asked elsewhere.) What was in flight there goes to other addresses at once. An
address that is left out is asked for its models again and again, and takes part again when it lists the right one.

`engine.retry_seconds` keeps its meaning, a budget for failures: the engine ends when one request has failed for so long and every address
that is left has been tried, or when no address has been left for so long. Permanent refusals and replies that cannot be used end it at
once, as with one server.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Final

from pipeline.config.engines import EngineConfig
from pipeline.config.models import Turns
from pipeline.errors import EngineError, EngineRefused
from pipeline.generation.engine import Completion, Decoding, Told, untold
from pipeline.generation.servers.answer_journal import AnswerJournal
from pipeline.generation.servers.connection import OwnServer, ServerConnection, connected
from pipeline.generation.servers.openai_engine import OpenAIEngine
from pipeline.generation.servers.reply import ErrorInReply, MalformedReply
from pipeline.generation.servers.retry import asked_to_wait, nobody_listens
from pipeline.generation.servers.spending import Spending, SpendingLimit
from pipeline.prompt_rendering import Prompt

PATIENCE_SECONDS: Final = 10.0
"""Seconds for which a request is retried at one address before it is asked elsewhere."""
_PROBE_SECONDS: Final = 5.0
"""Seconds within which an address that was left out has to list its models."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0


@dataclass(eq=False)
class _Server:
    """An address: `engine` asks it, `probe` only for its models. `answered` counts its answers, `pause` is the next wait when left out."""

    address: str
    engine: OpenAIEngine
    probe: ServerConnection
    up: bool = False
    seen: bool = False
    busy: int = 0
    answered: int = 0
    pause: float = _FIRST_PAUSE
    reason: str = ""


@dataclass(eq=False)
class _Request:
    prompt: Prompt
    seed: int
    decoding: Decoding
    there: dict[str, Completion]
    answer: Future[Completion] = field(default_factory=Future)
    failed_at: set[_Server] = field(default_factory=set)
    failing_since: float | None = None


def _passes(error: BaseException) -> bool:
    """Whether another server may answer: not after a permanent refusal, nor after replies that were paid for and cannot be used."""
    cause = error.__cause__
    unusable = isinstance(cause, MalformedReply) or (isinstance(cause, ErrorInReply) and cause.status_code is None)
    return isinstance(error, EngineError) and not isinstance(error, EngineRefused | SpendingLimit) and not unusable


class SeveralServers:
    """The engine over all addresses."""

    def __init__(self, config: EngineConfig, servers: Sequence[_Server], journal: AnswerJournal | None) -> None:
        self._connections, self._budget = config.connections, config.retry_seconds
        self._servers = servers
        self._journal = journal
        self._changed = Condition()
        """Guards everything below, and what is in servers and requests."""
        self._waiting: deque[_Request] = deque()
        self._again: list[_Request] = []
        self._none_since: float | None = time.monotonic()
        self._failure: EngineError | None = None
        self._ended = Event()
        self._probing: list[Thread] = []

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        """One completion per prompt, in order."""
        there = self._journal.read() if self._journal is not None else {}
        requests = [_Request(prompt, seed, decoding, there) for prompt, seed in zip(prompts, seeds, strict=True)]
        with self._changed:
            if self._failure is not None:
                raise self._failure
            self._waiting.extend(requests)
            self._fill()
        answers = [request.answer for request in requests]
        try:
            for answer in as_completed(answers):  # the first permanent failure stops all
                answer.result()
            return [answer.result() for answer in answers]
        except BaseException:
            self.give_up()
            raise

    def start(self) -> None:
        """Asks every address for its models; returns when one can be used.

        Raises:
            EngineRefused: an address rejects requests permanently or does not serve the model.
            EngineError: no address can be reached.
        """
        with ThreadPoolExecutor(len(self._servers)) as pool:
            found = list(pool.map(self._probed, self._servers))
        for server, error in zip(self._servers, found, strict=True):
            if isinstance(error, EngineRefused):
                raise error
            if error is None:
                self._take_in(server)
        for server, error in zip(self._servers, found, strict=True):
            if error is not None:
                self._leave_out(server, server.probe.reason(error.__cause__ or error))
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or any(server.up for server in self._servers))
            if self._failure is not None:
                raise self._failure

    def give_up(self) -> None:
        """Cancels requests that have not been sent; waits for running ones and keeps their responses."""
        self.end(EngineError("request cancelled, because another request failed; run again"))
        for server in self._servers:
            server.engine.pool.shutdown()  # what was handed over ends at once, since nothing more is sent

    def close(self) -> None:
        """Ends the search for addresses that were left out."""
        self._ended.set()
        for thread in self._probing:
            thread.join()

    def _fill(self) -> None:
        """Hands waiting requests to free addresses. A request that failed waits for another address, if there is one."""
        up = [server for server in self._servers if server.up]
        for request in tuple(self._again):
            others = [server for server in up if server not in request.failed_at] or up
            if free := [server for server in others if server.busy < self._connections]:
                self._again.remove(request)
                self._hand(request, free)
        while self._waiting and (free := [server for server in up if server.busy < self._connections]):
            self._hand(self._waiting.popleft(), free)

    def _hand(self, request: _Request, free: Sequence[_Server]) -> None:
        server = min(free, key=lambda one: one.busy)
        server.busy += 1
        server.engine.pool.submit(self._ask, server, request, server.answered)

    def _ask(self, server: _Server, request: _Request, answered: int) -> None:
        """Asks one address; `answered` is how many answers it had given when the request was handed to it."""
        try:
            answer = server.engine.one(request.prompt, request.seed, request.decoding, request.there)
        except BaseException as error:  # noqa: BLE001 - raised by the caller of `generate`
            with self._changed:
                server.busy -= 1
                self._failed(server, request, error, answered)
                self._fill()
            return
        with self._changed:
            server.busy -= 1
            server.answered, server.pause = server.answered + 1, _FIRST_PAUSE
            request.answer.set_result(answer)
            if self._failure is None:
                self._fill()

    def _failed(self, server: _Server, request: _Request, error: BaseException, answered: int) -> None:
        if self._failure is not None or not _passes(error):
            request.answer.set_exception(error if self._failure is None else self._failure)
            return
        now = time.monotonic()
        request.failed_at.add(server)
        request.failing_since = now if request.failing_since is None else request.failing_since
        self._again.append(request)
        if error.__cause__ is None:  # it was cancelled, because its address was left out
            return
        reason = server.engine.server.reason(error.__cause__)
        if server.up and (nobody_listens(error.__cause__) or server.answered == answered):
            server.pause = max(server.pause, asked_to_wait(error.__cause__))
            self._leave_out(server, reason)
        up = [one for one in self._servers if one.up]
        if up and now - request.failing_since >= self._budget and request.failed_at.issuperset(up):
            self.end(
                EngineError(
                    f"{server.address}: {reason}; no address answers this request within engine.retry_seconds {self._budget:g}; received "
                    "responses are kept: run again when the servers have recovered"
                )
            )

    def end(self, failure: EngineError) -> None:
        """Ends everything that waits; what is in flight comes to its end."""
        with self._changed:
            if self._failure is None:
                self._failure = failure
            self._ended.set()
            for request in (*self._again, *self._waiting):
                request.answer.set_exception(self._failure)
            self._again.clear()
            self._waiting.clear()
            for server in self._servers:
                server.up = False
                server.engine.server.stopped.set()
            self._changed.notify_all()

    def _take_in(self, server: _Server) -> None:
        with self._changed:
            if self._ended.is_set():
                return
            server.up = server.seen = True
            server.engine.server.stopped.clear()
            self._none_since = None
            self._fill()
            self._changed.notify_all()

    def _leave_out(self, server: _Server, reason: str) -> None:
        with self._changed:
            server.up, server.reason = False, reason
            server.engine.server.stopped.set()  # its requests wait no longer
            left = sum(one.up for one in self._servers)
            if not left and self._none_since is None:
                self._none_since = time.monotonic()
            print(f"{server.address}: {reason}; left out, {left} of {len(self._servers)} addresses left", flush=True)
            if not self._over():
                thread = Thread(target=self._search, args=(server,), name="left out", daemon=True)
                self._probing = [*(one for one in self._probing if one.is_alive()), thread]
                thread.start()

    def _over(self) -> bool:
        """Ends everything if no address has been left for as long as requests are retried."""
        with self._changed:
            if self._none_since is None or time.monotonic() - self._none_since < self._budget:
                return self._ended.is_set()
            every = "; ".join(f"{server.address}: {server.reason}" for server in self._servers)
            self.end(
                EngineError(
                    f"no address is left ({every}) for engine.retry_seconds {self._budget:g}; received responses are kept: run again when "
                    "a server has recovered"
                )
            )
            return True

    def _search(self, server: _Server) -> None:
        """Tries an address that was left out again and again, until it can be used."""
        began = time.monotonic()
        while not self._ended.wait(self._pause(server)):
            server.pause = min(2 * server.pause, _LONGEST_PAUSE)
            error = self._probed(server)
            if error is None:
                print(f"{server.address}: answers again after {time.monotonic() - began:.0f} s", flush=True)
                self._take_in(server)
                return
            server.reason = server.probe.reason(error if isinstance(error, EngineRefused) else error.__cause__ or error)
            if isinstance(error, EngineRefused) and not server.seen:
                self.end(error)
            if self._over():
                return

    def _pause(self, server: _Server) -> float:
        """Seconds until the next try: no longer than the budget lasts."""
        with self._changed:
            if self._none_since is None:
                return server.pause
            return min(server.pause, max(0.1, self._none_since + self._budget - time.monotonic()))

    def _probed(self, server: _Server) -> EngineError | None:
        try:
            server.probe.check_model()
        except EngineError as error:
            return error
        return None


@contextmanager
def open_several(
    config: EngineConfig, turns: Turns | None, arrived: Path | None, told: Told = untold, own: OwnServer | None = None
) -> Iterator[SeveralServers]:
    """Connects to all of `config.base_url`; `arrived` is the journal of responses that are in no committed shard yet.

    `own`: the servers are this process's own.

    Raises:
        EngineRefused: a server rejects requests permanently or does not serve `config.served_model`.
        EngineError: no server can be reached.
    """
    journal, spending = None if arrived is None else AnswerJournal(arrived), Spending(config, arrived)
    with ExitStack() as stack:
        servers = []
        for address in config.addresses:
            asked = config.model_copy(
                update={"base_url": address, "retry_seconds": min(config.retry_seconds, PATIENCE_SECONDS)}
            )
            probed = asked.model_copy(
                update={"retry_seconds": 0.0, "request_seconds": min(config.request_seconds, _PROBE_SECONDS)}
            )
            server = stack.enter_context(connected(asked, elsewhere=True, own=own))
            engine = OpenAIEngine(asked, turns, journal, spending, told, server, own)
            stack.enter_context(engine.pool)
            servers.append(_Server(address, engine, stack.enter_context(connected(probed, own=own))))
        several = SeveralServers(config, servers, journal)
        stack.callback(several.close)
        try:
            several.start()
            yield several
        except BaseException:
            several.give_up()
            raise
