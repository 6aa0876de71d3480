"""A fake provider with a batch interface beside the ordinary one, as OpenAI has it: strict about everything, slow, in no order.

It counts what is paid for: every text that it has written, at once or in a batch. `Provider.disturb` is called around every request, for
example to kill the client.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from tests.support.fake_teacher import reply

MODEL = "simulated"
COMMON = {"model", "temperature", "top_p", "seed", "stop", "logprobs", "max_tokens", "presence_penalty"}
BODIES = {
    "/v1/completions": COMMON | {"prompt"},
    "/v1/chat/completions": COMMON | {"messages", "max_completion_tokens", "reasoning_effort"},
}
LINE = {"custom_id", "method", "url", "body"}
Document = dict[str, Any]
Answer = tuple[int, Document | bytes]


def failure(status: int, message: str, param: str | None = None, code: str | None = None) -> tuple[int, Document]:
    """An error in the official form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass
class Provider:
    """The provider's state and its behaviour: `write` makes a text, `refuse` fails a request of a body, `ending` ends the n-th batch early.

    `listed_with`: batches on a page, at most. `keeps_metadata`: whether a batch shows it. `steps`: statuses before the end, one a look.
    """

    write: Callable[[str, int], str] = lambda prompt, seed: f"{prompt} {seed}"
    refuse: Callable[[Document], tuple[int, Document] | None] = lambda body: None
    ending: Callable[[int], Literal["completed", "expired", "cancelled"]] = lambda number: "completed"
    invalid: Callable[[int], Document | None] = lambda number: None
    disturb: Callable[[str, str], None] = lambda request, when: None
    steps: tuple[str, ...] = ("validating", "in_progress", "finalizing")
    has_batches: bool = True
    keeps_metadata: bool = True
    listed_with: int = 2
    most_requests: int = 50_000
    hold: threading.Event = field(default_factory=threading.Event)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, Document] = field(default_factory=dict)
    bodies: list[Document] = field(default_factory=list)
    paid: Counter[tuple[str, int]] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.hold.set()  # cleared, no batch goes on
        for number in range(3):  # somebody else's
            self._put({"metadata": None, "input_file_id": f"file-other-{number}"}, "completed", [])

    def _put(self, what: Document, last: str, steps: list[str]) -> Document:
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "created_at": len(self.batches),
            "_last": last,
            "_steps": steps,
            **what,
        }
        return self.batches[name]

    # the ordinary interface

    def complete(self, url: str, body: Document) -> Answer:
        if unknown := body.keys() - BODIES[url]:
            return failure(400, f"Unrecognized request argument supplied: {min(unknown)}", min(unknown))
        if body.get("model") != MODEL:
            return failure(404, f"The model '{body.get('model')}' does not exist", code="model_not_found")
        chat = url == "/v1/chat/completions"
        prompt, seed = (body["messages"][-1]["content"] if chat else body["prompt"]), body.get("seed", 0)
        with self.lock:
            if (refused := self.refuse(body)) is not None:
                return refused
            self.bodies.append(body)
            self.paid[prompt, seed] += 1
        said = reply(self.write(prompt, seed))
        (choice,) = said["choices"]
        values = choice.pop("logprobs")["token_logprobs"]
        if chat:
            choice["message"] = {"role": "assistant", "content": choice.pop("text"), "refusal": None}
        if "logprobs" in body:
            choice["logprobs"] = {"content": [{"logprob": one} for one in values]} if chat else {"token_logprobs": values}
        return 200, said

    # files

    def upload(self, content_type: str, content: bytes) -> Answer:
        if not content_type.startswith("multipart/form-data; boundary="):
            return failure(400, f"expected multipart/form-data, not {content_type}")
        parts = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + content).get_payload()
        named = {part.get_param("name", header="content-disposition"): part for part in parts}  # type: ignore[union-attr]
        if named.keys() != {"purpose", "file"} or named["purpose"].get_payload() != "batch":  # type: ignore[union-attr]
            return failure(400, "expected the fields file, and purpose with the value batch")
        if not str(named["file"].get_filename()).endswith(".jsonl"):  # type: ignore[union-attr]
            return failure(400, "Invalid file format for Batch API. Must be .jsonl")
        data = named["file"].get_payload(decode=True)  # type: ignore[union-attr]
        assert isinstance(data, bytes)
        if len(data) > 200_000_000:
            return failure(400, "File is too large.")
        return 200, self._file(data)

    def _file(self, data: bytes) -> Document:
        name = f"file-{len(self.files)}"
        self.files[name] = data
        return {"id": name, "object": "file", "bytes": len(data), "created_at": 0, "filename": "f.jsonl", "purpose": "batch"}

    # batches

    def create(self, asked: Document) -> Answer:
        if asked.keys() - {"metadata"} != {"input_file_id", "endpoint", "completion_window"}:
            return failure(400, f"unknown or missing fields: {sorted(asked)}")
        if asked["completion_window"] != "24h" or asked["endpoint"] not in BODIES:
            return failure(400, "completion_window must be 24h, and endpoint one of the endpoints")
        if any(len(name) > 64 or len(value) > 512 for name, value in (asked.get("metadata") or {}).items()):
            return failure(400, "metadata is too long")
        if asked["input_file_id"] not in self.files:
            return failure(404, f"No such File object: {asked['input_file_id']}")
        number = len(self.batches) - 3
        lines = self.files[asked["input_file_id"]].removesuffix(b"\n").split(b"\n")
        wrong = self.invalid(number) or self._wrong(lines, asked["endpoint"])
        if wrong is not None:
            batch = self._put(asked, "failed", ["validating"])
            batch["_ends"] = {"errors": {"object": "list", "data": [wrong]}}
        else:
            last = self.ending(number)
            batch = self._put(asked, last, list(self.steps))
            batch["_ends"] = self._run([json.loads(line) for line in lines], last, number)
        batch["request_counts"] = {"total": len(lines), "completed": 0, "failed": 0}
        return 200, self._shown(batch)

    def _wrong(self, lines: list[bytes], endpoint: str) -> Document | None:
        """The first error of an input file."""
        seen, models = set(), set()
        if len(lines) > self.most_requests:
            return {"code": "too_many_requests", "message": "too many requests in the file", "line": None, "param": None}
        for number, line in enumerate(lines, 1):
            try:
                one = json.loads(line)
            except ValueError:
                return {"code": "invalid_json_line", "message": "This line is not parseable", "line": number, "param": None}
            right = one.keys() == LINE and one["method"] == "POST" and one["url"] == endpoint and one["custom_id"] not in seen
            models.add(one["body"]["model"])
            if not right or len(one["custom_id"]) > 64 or len(models) > 1:
                return {
                    "code": "invalid_request",
                    "message": f"This line is not accepted: {one}",
                    "line": number,
                    "param": None,
                }
            seen.add(one["custom_id"])
        return None

    def _run(self, lines: list[Document], last: str, number: int) -> Document:
        """Answers the requests, half of them if the batch is to end early; the files that it will have."""
        chance = random.Random(number)
        chance.shuffle(lines)
        done = len(lines) if last == "completed" else len(lines) // 2
        good, bad = [], []
        for place, line in enumerate(lines):
            result = {"id": f"batch_req_{place}", "custom_id": line["custom_id"], "response": None, "error": None}
            if place < done:
                status, body = self.complete(line["url"], line["body"])
                result["response"] = {"status_code": status, "request_id": f"req_{place}", "body": body}
                (good if status == 200 else bad).append(result)
            else:
                result["error"] = {"code": f"batch_{last}", "message": "This request could not be executed in time."}
                bad.append(result)
        ends: Document = {"_counts": {"total": len(lines), "completed": len(good), "failed": len(lines) - len(good)}}
        for name, results in (("output_file_id", good), ("error_file_id", bad)):
            if results:
                ends[name] = self._file(b"".join(json.dumps(one).encode() + b"\n" for one in results))["id"]
        return ends

    def look(self, name: str) -> Answer:
        if name not in self.batches:
            return failure(404, f"No batch found with id '{name}'.")
        shown = self._shown(self.batches[name])
        if self.hold.is_set() and self.batches[name]["_steps"]:
            self.batches[name]["_steps"].pop(0)
        return 200, shown

    def _shown(self, batch: Document) -> Document:
        ended = not batch["_steps"]
        shown = {name: value for name, value in batch.items() if not name.startswith("_")}
        shown |= {"status": batch["_last"] if ended else batch["_steps"][0]}
        if ended:
            ends = batch.get("_ends", {})
            shown |= {name: value for name, value in ends.items() if name != "_counts"}
            shown |= {"request_counts": ends["_counts"]} if "_counts" in ends else {}
        return shown if self.keeps_metadata else {**shown, "metadata": None}

    def list(self, query: dict[str, list[str]]) -> Answer:
        names = list(reversed(self.batches))
        if "after" in query:
            names = names[names.index(query["after"][0]) + 1 :]
        page = names[: min(int(query.get("limit", ["20"])[0]), self.listed_with)]
        data = [self._shown(self.batches[name]) for name in page]
        return 200, {"object": "list", "data": data, "has_more": len(page) < len(names)}

    def answer(self, method: str, target: str, content_type: str, content: bytes) -> Answer:
        parts = urlsplit(target)
        match method, parts.path.removeprefix("/v1").strip("/").split("/"):
            case "GET", ["models"]:
                return 200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
            case "POST", ["completions"] | ["chat", "completions"]:
                return self.complete(parts.path, json.loads(content))
            case "POST", ["files"]:
                return self.upload(content_type, content)
            case _, ["batches", *_] if not self.has_batches:
                return failure(404, "Not Found")
            case "POST", ["batches"]:
                return self.create(json.loads(content))
            case "GET", ["batches"]:
                return self.list(parse_qs(parts.query))
            case "GET", ["batches", name]:
                return self.look(name)
            case "GET", ["files", name, "content"] if name in self.files:
                return 200, self.files[name]
        return failure(404, f"No such thing: {method} {target}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        provider, content = self.server.provider, self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = urlsplit(self.path).path
        name = f"{self.command} {path if path.count('/') < 3 or 'chat' in path else path[: path.index('/', 4)] + '/*'}"
        provider.disturb(name, "before")
        with provider.lock:
            provider.requests[name] += 1
            status, said = provider.answer(self.command, self.path, self.headers["Content-Type"] or "", content)
        provider.disturb(name, "after")
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(said, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _serve

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def __init__(self, provider: Provider) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.provider = provider

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed during a request are expected."""


@contextmanager
def provide(provider: Provider) -> Iterator[str]:
    """The base URL of a running provider."""
    server = _Server(provider)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
