"""Generation engine for the batch interface of an OpenAI-compatible server: half the price at many, and up to a day.

The requests of a call are a file of lines, with the same bodies that `openai_engine.py` sends. It is uploaded (`/files`), a batch is
created of it (`/batches`), and its results are read when the batch has ended. Results come in any order, so a line's name is the journal's
key of its request. A call is split where a batch has a largest size.

**Nothing is paid for twice.** What is submitted is on disk before it can be paid for (`batch_files.py`). A batch carries a digest of its
content in its metadata. Before one is created, and again before a creation that failed is tried anew, the server's list of batches is
searched for this digest, and for the uploaded file where a server keeps no metadata. So a process that was killed after the server had
created the batch finds it, even one on another machine without the files. Answers go to a journal beside the batch, and from there the
ordinary way.

**Failures of requests.** Passing ones (429, 5xx, expired, cancelled, malformed) go into a further batch, three times at most; permanent
ones end the stage as they do with requests that are sent at once. A refusal of `logprobs`, or of `max_tokens` in favour of another name, is
not paid for: those requests go into a further batch without the former, or with the latter's other name. This costs the time of a batch;
`engine.parameters` saves it. Failures of a batch that had ended before it was found in the list are old news: its answers are taken, and
what has none is asked again.

**A queue that is full** (`token_limit_exceeded`) refuses a whole batch; it is submitted again when another one of this stage has ended.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Condition, Lock
from typing import Any, Final

import orjson
from openai import DefaultAsyncHttpxClient

from pipeline.config.engines import EngineConfig
from pipeline.config.models import Turns
from pipeline.errors import EngineError, EngineRefused, PromptTooLong
from pipeline.generation.engine import TOO_LONG, Completion, Decoding, Told, untold
from pipeline.generation.servers.answer_journal import AnswerJournal, key_of
from pipeline.generation.servers.batch_files import Batch, check_none_under_way, digest_of, packed, read_batches, write_batch
from pipeline.generation.servers.bounded_requests import bounded_lines, lines_of
from pipeline.generation.servers.connection import ServerConnection, connected
from pipeline.generation.servers.reply import ErrorInReply, MalformedReply, error_of, usage_of
from pipeline.generation.servers.requests import ServerRequests, json_of
from pipeline.generation.servers.retry import passing
from pipeline.generation.servers.spending import Spending, SpendingLimit, Usage, sum_of
from pipeline.prompt_rendering import Prompt

_TRIES: Final = 3
"""Batches that one request is sent in while it fails."""
_MARK: Final = "mind_requests"
"""Key of the digest in a batch's metadata."""
_PAGE: Final = 100
"""Batches on a page of the server's list; OpenAI has no larger ones."""
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 30.0
"""Seconds between two looks at a batch; they grow from the first to this."""
_QUIET_SECONDS: Final = 30.0
"""Minimum seconds between two log lines about batches that are under way."""
_UNDER_WAY: Final = frozenset(
    {"validating", "queued", "pending", "in_progress", "running", "processing", "finalizing", "cancelling"}
)
_INVALID: Final = frozenset({"failed", "error"})
_OVER: Final = frozenset({"completed", "expired", "cancelled", "canceled"})
_FULL: Final = frozenset({"token_limit_exceeded", "enqueued_token_limit_exceeded"})
"""Codes of a whole batch's refusal that passes."""
_NO_INTERFACE: Final = "this server has no batches (/batches): set engine.batches to false"


class _QueueFull(EngineError):
    """The server takes no further batch until another one has ended."""


def _checked(document: Any, what: str) -> dict[str, Any]:
    """A reply that names something that the server has made."""
    if not isinstance(document, dict) or not isinstance(document.get("id"), str) or not document["id"]:
        raise MalformedReply(f"malformed response (a {what} without an id)")
    return document


def _status(document: Mapping[str, Any]) -> str:
    return str(document.get("status")).lower()


class _BatchEngine:
    def __init__(self, config: EngineConfig, turns: Turns | None, arrived: Path, told: Told, server: ServerConnection) -> None:
        self._url = str(config.base_url)
        self._hours = config.batch_hours
        self._until = float("inf") if config.batch_hours is None else time.monotonic() + config.batch_hours * 3600
        self._told = told
        self._arrived = arrived
        self._journal = AnswerJournal(arrived)
        self._server = server
        self._requests = ServerRequests(config, turns)
        self._spending = Spending(config, arrived)
        self._reserved: set[str] = set()
        self._downloads = server.client.with_options(
            http_client=DefaultAsyncHttpxClient(event_hooks={"response": [bounded_lines]})
        )
        self._endpoint = "/v1/chat/completions" if turns is not None else "/v1/completions"
        self._batches = {batch.digest: batch for batch in read_batches(arrived)}
        self._counts: dict[str, Mapping[str, Any]] = {}
        self._said = time.monotonic()
        self._submission = Lock()
        self._calls = Condition()
        self._called = self._waiting = 0
        for batch in self._batches.values():
            self._count_again(batch)

    def _count_again(self, batch: Batch) -> None:
        """Takes over what an earlier process has reserved for a batch, and counts what it had no time to count."""
        if batch.counted:
            return
        self._spending.keep(batch.most)
        self._reserved.add(batch.digest)
        if batch.ended:
            self._count(batch)
        elif batch.id is None:  # reserved again when it is placed
            self._release(batch)

    def _finish(self, batch: Batch, decoding: Decoding) -> None:
        """Ends a batch whose answers are all here; if the server has forgotten it, without knowing what they cost."""
        with batch.lock:
            try:
                self._look_at(batch, decoding)
            except EngineRefused:
                batch.lost = batch.most
                batch.end(keep_input=False)
                self._count(batch)

    def _count(self, batch: Batch) -> None:
        """Puts what an ended batch has used into the ledger."""
        if batch.digest in self._reserved:
            self._reserved.remove(batch.digest)
            self._spending.end(batch.most, batch.stated, batch.lost)
        batch.counted = True
        batch.save()

    def _release(self, batch: Batch) -> None:
        if batch.digest in self._reserved:
            self._reserved.remove(batch.digest)
            self._spending.end(batch.most)

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        keys = [key_of(prompt, seed, decoding) for prompt, seed in zip(prompts, seeds, strict=True)]
        asked = dict(zip(keys, zip(prompts, seeds, strict=True), strict=True))
        failed: Counter[str] = Counter()
        with self._call():
            while True:
                with self._submission:
                    under_way = self._under_way()  # before the journal is read: what ends meanwhile is in it
                    there = self._journal.read()
                    for batch in under_way:  # a killed process had its answers, and no time to note its end
                        if batch.id is not None and batch.keys <= there.keys():
                            self._finish(batch, decoding)
                    under_way = [batch for batch in under_way if not batch.ended]
                    missing = [key for key in asked if key not in there]
                    if not missing:
                        break
                    batches = self._submitted({key: asked[key] for key in missing}, under_way, decoding)
                if not batches:  # another one has to end before there is money for any
                    self._wait_for_an_end()
                full = []
                for batch in self._ending(batches, decoding):
                    full += self._check(batch, missing, failed)
                if full:
                    self._wait_for_room(full[0], alone=len(full) == len(batches))
            self._asked_for(set(asked))
            return [there[key] for key in keys]

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Counts callers, so that the connection outlives them."""
        with self._calls:
            self._called += 1
        try:
            yield
        finally:
            with self._calls:
                self._called -= 1
                self._calls.notify_all()

    def close(self) -> None:
        """Sends nothing more, and waits for what is being sent."""
        self._server.stopped.set()
        with self._calls:
            self._calls.wait_for(lambda: self._called == 0)
        self._server.in_time(self._downloads.close)

    def _asked_for(self, keys: set[str]) -> None:
        for digest, batch in list(self._batches.items()):
            if batch.ended:
                batch.asked_for(keys)
                if not batch.folder.exists():
                    self._batches.pop(digest, None)

    def _under_way(self) -> list[Batch]:
        return [batch for batch in list(self._batches.values()) if not batch.ended]

    # submitting

    def _submitted(self, asked: Mapping[str, tuple[Prompt, int]], under_way: list[Batch], decoding: Decoding) -> list[Batch]:
        """Batches with these requests: those of earlier processes, and new ones for the rest, as far as there is money for them.

        Raises:
            SpendingLimit: there is none left, and nothing under way that may cost less than it could.
        """
        mine = []
        for batch in under_way:
            if not batch.keys & asked.keys():
                continue
            if batch.id is None:
                try:
                    there = self._placed(batch, may_create=batch.keys <= asked.keys())
                except SpendingLimit:  # its requests are asked for by another one below, if there is money
                    there = False
                if not there:
                    del self._batches[batch.digest]
                    batch.drop()
                    continue
            mine.append(batch)
        taken = set().union(*(batch.keys for batch in mine))
        lines = (self._line(key, *one, decoding) for key, one in asked.items() if key not in taken)
        for pack in packed(lines):
            digest = next(name for number in count() if (name := digest_of(pack, number)) not in self._batches)
            most = self._spending.bound(sum(map(len, pack)), decoding.max_tokens, len(pack))
            batch = write_batch(self._arrived, digest, self._url, pack, most)
            self._batches[digest] = batch
            try:
                self._placed(batch)
            except SpendingLimit:
                del self._batches[digest]
                batch.drop()
                if not mine and not self._waiting:
                    raise
                break
            mine.append(batch)
        return mine

    def _line(self, key: str, prompt: Prompt, seed: int, decoding: Decoding) -> bytes:
        body = self._requests.body(prompt, seed, decoding)
        return orjson.dumps({"custom_id": key, "method": "POST", "url": self._endpoint, "body": body})

    def _placed(self, batch: Batch, may_create: bool = True) -> bool:
        """Finds a batch at the server, or creates it there; whether it is there.

        Raises:
            SpendingLimit: it is not there, and could cost more than is left.
        """
        found = self._server.patiently(partial(self._found, batch), _NO_INTERFACE)
        batch.found_ended = found is not None and _status(found) in _INVALID | _OVER
        if found is None:
            if not may_create:
                return False
            self._spending.reserve(batch.most)
            self._reserved.add(batch.digest)
            remedy = f"correct what it names in {batch.input}, or set engine.batches to false"
            batch.files.append(self._server.patiently(partial(self._uploaded, batch), remedy))
            batch.save()
            what, found = "submitted", self._server.patiently(self._creation(batch), remedy)
        else:
            what = "found"
            self._spending.keep(batch.most)
            self._reserved.add(batch.digest)
        batch.id = found["id"]
        batch.save()
        print(f"{self._url}: batch {batch.id}: {len(batch.keys):,} requests {what}", flush=True)
        return True

    def _found(self, batch: Batch) -> dict[str, Any] | None:
        """The batch in the server's list, if it is there."""
        after: dict[str, str] = {}
        seen = set()
        while True:
            request = partial(self._server.client.batches.with_raw_response.list, limit=_PAGE, **after)
            page = json_of(self._server.in_time(request).content)
            listed = page.get("data") if isinstance(page, dict) else None
            if not isinstance(listed, list):
                raise MalformedReply("malformed response (a list of batches without data)")
            for one in listed:
                marks = _checked(one, "batch").get("metadata")
                if (isinstance(marks, dict) and marks.get(_MARK) == batch.digest) or one.get("input_file_id") in batch.files:
                    return dict(one)
            if not listed or not page.get("has_more", True) or (last := listed[-1]["id"]) in seen:
                return None
            seen.add(last)
            after = {"after": last}

    def _uploaded(self, batch: Batch) -> str:
        async def upload() -> Any:
            with batch.input.open("rb") as file:
                named = (f"{batch.digest}.jsonl", file, "application/jsonl")
                return await self._server.client.files.with_raw_response.create(file=named, purpose="batch")

        return str(_checked(json_of(self._server.in_time(upload).content), "file")["id"])

    def _creation(self, batch: Batch) -> Callable[[], dict[str, Any]]:
        endpoint: Any = self._endpoint
        request = partial(
            self._server.client.batches.with_raw_response.create,
            completion_window="24h",
            endpoint=endpoint,
            input_file_id=batch.files[-1],
            metadata={_MARK: batch.digest},
        )
        tried = False

        def create() -> dict[str, Any]:
            nonlocal tried
            if tried and (found := self._found(batch)) is not None:  # the reply was lost, the batch was not
                return found
            tried = True
            return _checked(json_of(self._server.in_time(request).content), "batch")

        return create

    # waiting

    def _ending(self, batches: list[Batch], decoding: Decoding) -> Iterator[Batch]:
        """Each batch when it has ended and its answers are on disk."""
        open_ones, pause = list(batches), _FIRST_PAUSE
        with self._calls:
            self._waiting += 1
        try:
            while True:
                for batch in list(open_ones):
                    with batch.lock:
                        if not batch.ended:
                            self._look_at(batch, decoding)
                    if batch.ended:
                        open_ones.remove(batch)
                        yield batch
                if not open_ones:
                    return
                self._say()
                self._pause(pause)
                pause = min(_LONGEST_PAUSE, 1.5 * pause)
        finally:
            with self._calls:
                self._waiting -= 1

    def _pause(self, seconds: float) -> None:
        """Waits before the next look, or ends the stage if it has waited long enough."""
        left = self._until - time.monotonic()
        if left <= 0:
            with self._submission:  # another shard may be about to be submitted
                batches = self._under_way()
            number = sum(len(batch.keys) for batch in batches)
            raise EngineError(
                f"{self._url}: {len(batches)} batches with {number:,} requests are under way, {self._done():,} of them done after "
                f"engine.batch_hours {self._hours:g}; run again to fetch their answers"
            )
        self._server.stopped.wait(min(seconds, left))

    def _done(self) -> int:
        return sum(self._counted_by_server(batch, "completed") for batch in self._under_way())

    def _counted_by_server(self, batch: Batch, name: str) -> int:
        value = self._counts.get(batch.digest, {}).get(name)
        return value if isinstance(value, int) else 0

    def _say(self) -> None:
        if time.monotonic() - self._said < _QUIET_SECONDS:
            return
        self._said = time.monotonic()
        batches = self._under_way()
        number, failed = (
            sum(len(batch.keys) for batch in batches),
            sum(self._counted_by_server(batch, "failed") for batch in batches),
        )
        print(
            f"{self._url}: {len(batches)} batches under way: {self._done():,} of {number:,} requests done, {failed:,} failed",
            flush=True,
        )

    def _wait_for_room(self, error: _QueueFull, alone: bool) -> None:
        """Waits until a batch of this stage has ended. `alone`: none of this call's batches was taken."""
        if alone and not self._waiting:
            raise EngineError(
                f"{error}; lower the shard's size (questions_per_shard, items_per_shard), or run again when other batches have ended"
            )
        self._wait_for_an_end()

    def _wait_for_an_end(self) -> None:
        while self._waiting and not self._server.stopped.is_set():
            self._pause(1.0)

    # fetching

    def _look_at(self, batch: Batch, decoding: Decoding) -> None:
        """Asks the server how far a batch is, and fetches what it has when it has ended."""
        remedy = f"set engine.base_url to the server that has the batch, or remove {batch.folder} to ask again and pay again"
        request = partial(self._server.client.batches.with_raw_response.retrieve, str(batch.id))
        document = self._server.patiently(
            lambda: _checked(json_of(self._server.in_time(request).content), "batch"),
            remedy,
        )
        status, counts = _status(document), document.get("request_counts")
        self._counts[batch.digest] = counts if isinstance(counts, dict) else {}
        if status in _UNDER_WAY:
            return
        if status in _INVALID:
            failure = self._invalid(batch, document)
            batch.failures = dict.fromkeys(batch.keys, failure)
        elif status in _OVER:
            self._fetch(batch, document, decoding, remedy)
        else:
            raise EngineRefused(
                f"{self._url}: batch {batch.id} has the unknown status {status[:40]!r}; set engine.batches to false for this server"
            )
        batch.end(keep_input=status in _INVALID)
        self._count(batch)
        self._counts.pop(batch.digest, None)
        print(
            f"{self._url}: batch {batch.id}: {status}, {len(batch.keys):,} answers, {len(batch.failures):,} requests without one",
            flush=True,
        )

    def _invalid(self, batch: Batch, document: Mapping[str, Any]) -> Exception:
        """Why a whole batch was refused: its first error."""
        errors = document.get("errors")
        listed = errors.get("data") if isinstance(errors, dict) else None
        first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
        line = f", line {first['line']} of its input" if first.get("line") is not None else ""
        parameter = f" ({first['param']})" if first.get("param") else ""
        message = f"{first.get('message') or first.get('code') or 'no reason given'}{parameter}"
        error = error_of({**first, "message": message}, f"batch {batch.id} failed{line}")
        if first.get("code") in _FULL:
            return _QueueFull(f"{self._url}: {self._server.reason(error)}")
        error.status_code = error.status_code or 400
        return error if passing(error) else self._refusal(error, f"correct what it names in {batch.input}")

    def _fetch(self, batch: Batch, document: Mapping[str, Any], decoding: Decoding, remedy: str) -> None:
        there, usages = set(batch.answers.read()), dict[str, Usage | None]()
        for name in ("output_file_id", "error_file_id"):
            file = document.get(name)
            if not isinstance(file, str) or not file:
                continue
            try:
                self._server.patiently(partial(self._take, batch, file, there, usages, decoding), remedy)
            except EngineRefused as error:
                if not batch.found_ended or getattr(error.__cause__, "status_code", None) != 404:
                    raise  # else its answers are gone, and nothing here ever waited for them
        batch.stated = sum_of(used for used in usages.values() if used is not None)
        silent, one = sum(used is None for used in usages.values()), max(1, len(usages))
        batch.lost = Usage(silent, *(-(-count * silent // max(one, batch.most.requests)) for count in batch.most[1:]))
        for key in batch.keys - there - batch.failures.keys():
            batch.failures[key] = ErrorInReply(f"batch {batch.id} was {_status(document)} before this request had an answer")

    def _take(self, batch: Batch, file: str, there: set[str], usages: dict[str, Usage | None], decoding: Decoding) -> None:
        """Reads one file of results; answers go to the batch's journal, `there` has their keys, `usages` what each request used."""
        answers = batch.answers
        content = partial(self._downloads.files.with_streaming_response.content, file)
        for line in lines_of(content, self._server.in_time):
            try:
                document = json_of(line)
            except MalformedReply:
                continue  # the request that it was for has no answer
            key = document.get("custom_id") if isinstance(document, dict) else None
            if not isinstance(key, str) or key not in batch.keys:
                continue
            response = document.get("response")
            if isinstance(response, dict) and response.get("status_code") == 200:
                usages[key] = usage_of(response.get("body"))
            if key in there:
                continue
            try:
                answer = self._answer(document, decoding)
            except (ErrorInReply, MalformedReply, EngineRefused) as error:
                batch.failures[key] = error
                if not decoding.skip_long or not isinstance(self._refusal(error), PromptTooLong):
                    continue
                answer = TOO_LONG
            batch.failures.pop(key, None)
            answers.add(key, answer)
            there.add(key)
            if answer is not TOO_LONG:
                self._told(answer)

    def _answer(self, document: Mapping[str, Any], decoding: Decoding) -> Completion:
        response = document.get("response")
        if not isinstance(response, dict):
            raise error_of(document.get("error") or "neither response nor error", "error in a batch")
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            return self._requests.read(body, decoding)
        found = body.get("error", body) if isinstance(body, dict) else body
        error = error_of(found, f"error {status} in a batch", status if isinstance(status, int) else None)
        error.body = found
        if isinstance(found, dict) and isinstance(found.get("code"), str):
            error.code = found["code"]
        raise error

    def _refusal(self, error: Exception, remedy: str | None = None) -> EngineError:
        """A request's failure as the error that ends the stage."""
        if not isinstance(error, ErrorInReply | MalformedReply):
            assert isinstance(error, EngineError)
            return error
        refusal = self._server.explained(error, 1, remedy)
        refusal.__cause__ = error
        return refusal

    def _check(self, batch: Batch, asked: Sequence[str], failed: Counter[str]) -> list[_QueueFull]:
        """Decides about requests without an answer: all that can be asked again is left to a further batch.

        Returns the error of a batch that found the queue full.

        Raises:
            EngineRefused: a permanent failure.
            EngineError: a request that has failed too often.
        """
        if batch.found_ended:
            return []
        for key in asked:
            error = batch.failures.get(key)
            if error is None:
                continue
            if isinstance(error, _QueueFull):
                return [error]
            if passing(error):
                failed[key] += 1
                if failed[key] >= _TRIES:
                    raise EngineError(
                        f"{self._url}: {self._server.reason(error)}; {len(batch.failures):,} requests have failed, one in {_TRIES} "
                        "batches; received answers are kept: run again when the server has recovered"
                    ) from error
                continue
            refusal = self._refusal(error)
            if not isinstance(refusal, EngineRefused):
                raise refusal
            self._requests.adapt(refusal, batch.names)
        return []


@contextmanager
def open_batches(
    config: EngineConfig, turns: Turns | None, arrived: Path | None, told: Told = untold
) -> Iterator[_BatchEngine]:
    """Connects to `config.base_url`; beside `arrived`, the journal, is what was submitted. Without a journal, the server's list has to do.

    Raises:
        EngineRefused: the server rejects requests permanently, does not serve `config.served_model`, or lacks the batches.
        EngineError: the server cannot be reached.
    """
    with ExitStack() as stack:
        if arrived is None:
            arrived = Path(stack.enter_context(TemporaryDirectory(prefix="mind-batches-"))) / "arrived.jsonl"
        check_none_under_way(arrived, config.addresses[0])
        server = stack.enter_context(connected(config))
        server.check_model()
        engine = _BatchEngine(config, turns, arrived, told, server)
        stack.callback(engine.close)
        yield engine
