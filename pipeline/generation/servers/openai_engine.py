"""Generation engine for any OpenAI-compatible server, for example `vllm serve` on loopback.

Each sample has its own seed and is therefore a request of its own; only failed requests are retried. Transient errors are retried;
permanent errors, such as a rejected key, fail immediately with a one-line message (`connection.py`). What a request says and how its
reply is read is in `requests.py`. What replies cost is counted, and can be limited (`spending.py`). An empty text is a valid
completion; it is graded `unparsed`, and sampling draws again with another seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from openai import APIConnectionError, APIStatusError

from pipeline.config.engines import EngineConfig
from pipeline.config.models import Turns
from pipeline.errors import EngineRefused, PromptTooLong
from pipeline.generation.engine import TOO_LONG, Completion, Decoding, Told, untold
from pipeline.generation.servers.answer_journal import AnswerJournal, key_of
from pipeline.generation.servers.connection import OwnServer, ServerConnection, connected
from pipeline.generation.servers.reply import usage_of
from pipeline.generation.servers.requests import ServerRequests, json_of
from pipeline.generation.servers.retry import nobody_listens
from pipeline.generation.servers.spending import Spending
from pipeline.prompt_rendering import Prompt


class OpenAIEngine:
    """The engine on one server. `own`: the server is this process's own."""

    def __init__(
        self,
        config: EngineConfig,
        turns: Turns | None,
        arrived: AnswerJournal | None,
        spending: Spending,
        told: Told,
        server: ServerConnection,
        own: OwnServer | None = None,
    ) -> None:
        self._told = told
        self._arrived = arrived
        self._spending = spending
        self._requests = ServerRequests(config, turns, own)
        self.server = server
        self.pool = ThreadPoolExecutor(config.connections)

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

    def give_up(self) -> None:
        """Cancels requests that have not been sent; waits for running ones and keeps their responses."""
        self.server.stopped.set()
        self.pool.shutdown(cancel_futures=True)

    def one(self, prompt: Prompt, seed: int, decoding: Decoding, there: dict[str, Completion]) -> Completion:
        """The completion of one prompt, unless it is `there`."""
        key = key_of(prompt, seed, decoding)
        if key in there:
            return there[key]
        try:
            answer = self._adapting(prompt, seed, decoding)
        except PromptTooLong:
            if not decoding.skip_long:
                raise
            return TOO_LONG
        if self._arrived is not None:
            self._arrived.add(key, answer)
        self._told(answer)
        return answer

    def _adapting(self, prompt: Prompt, seed: int, decoding: Decoding) -> Completion:
        """Asks, and asks again without a setting that the server refuses and that is not essential."""
        while True:
            body = self._requests.body(prompt, seed, decoding)
            try:
                return self.server.patiently(partial(self._ask, body, decoding))
            except EngineRefused as error:
                self._requests.adapt(error, body)

    def _ask(self, body: dict[str, Any], decoding: Decoding) -> Completion:
        client = self.server.client
        create: Any = client.chat.completions if self._requests.chat else client.completions
        asked = {name: value for name, value in body.items() if name in ("model", "prompt", "messages")}
        # In the body as they are: servers know more parameters, and other names, than the client.
        settings = {name: value for name, value in body.items() if name not in asked}
        request = partial(create.with_raw_response.create, **asked, extra_body=settings)
        with self._spending.request(len(orjson.dumps(asked)), decoding.max_tokens, self.server.stopped) as counted:
            try:
                document = json_of(self.server.in_time(request).content)
            except (APIStatusError, APIConnectionError) as error:
                if isinstance(error, APIStatusError) or nobody_listens(error):
                    counted(None)
                raise
            if (used := usage_of(document)) is not None:
                counted(used if used.requests else None)
        return self._requests.read(document, decoding)


@contextmanager
def open_openai(config: EngineConfig, turns: Turns | None, arrived: Path | None, told: Told = untold) -> Iterator[OpenAIEngine]:
    """Connects to `config.base_url`; `arrived` is the journal of responses that are in no committed shard yet.

    Raises:
        EngineRefused: the server rejects requests permanently or does not serve `config.served_model`.
        EngineError: the server cannot be reached.
    """
    journal = None if arrived is None else AnswerJournal(arrived)
    with connected(config) as server:
        server.check_model()
        engine = OpenAIEngine(config, turns, journal, Spending(config, arrived), told, server)
        with engine.pool:
            try:
                yield engine
            except BaseException:
                engine.give_up()
                raise
