"""A fake teacher for fault injection and load: an OpenAI-compatible server on loopback that replies at once.

It writes worked solutions of the miniature world, or texts of the caller's function. The same prompt and seed give the same text, so a
killed run can be compared with an undisturbed one row by row. A `Fault` replaces a reply.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipeline.miniature.styles import solution
from pipeline.questions.procedural import ID_FAMILIES, Problem, ask, distinct

PROBLEMS: dict[str, Problem] = {
    ask(problem): problem for family in ID_FAMILIES for problem in distinct(family, "train", 400, 0)
}
Asked = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """A reply that is sent after `seconds` in place of the right one; with `cut`, only its first bytes.

    `drip`: seconds between the bytes of its body and, with `drip_headers`, of its headers. `endless`: the body is sent again and again,
    for a minute, or until the client has gone.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": {"message": "injected", "code": null}}'
    seconds: float = 0.0
    cut: int | None = None
    drip: float = 0.0
    drip_headers: bool = False
    endless: bool = False


def write(prompt: str, seed: int) -> str:
    """The rationale for a prompt with a perspective and a question."""
    lines = dict(line.split(": ", 1) for line in prompt.splitlines() if ": " in line)
    return solution(PROBLEMS[lines["Question"]], lines["Perspective"], random.Random(seed))


def reply(text: str, **changes: Any) -> Asked:
    """The reply to a completion request."""
    words = len(text.split())
    choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5] * words}}
    usage = {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words}
    whole = {"id": "1", "object": "text_completion", "created": 0, "model": "simulated", "choices": [choice], "usage": usage}
    return {**whole, **changes}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    _drip = 0.0

    def do_GET(self) -> None:
        fault = self.server.fault({})
        if fault is not None:
            return self._send(fault)
        self._answer({"object": "list", "data": [{"id": "simulated", "object": "model", "created": 0, "owned_by": "tests"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.server.fault(asked)
        if fault is not None:
            return self._send(fault)
        self._answer(reply(self.server.write(asked["prompt"], asked["seed"])))

    def _answer(self, document: dict[str, Any]) -> None:
        self._send(Fault(body=json.dumps(document).encode()))

    def _send(self, what: Fault) -> None:
        time.sleep(what.seconds)
        self._drip = what.drip if what.drip_headers else 0.0
        self.send_response(what.status)
        length = {} if what.endless else {"Content-Length": str(len(what.body))}
        for name, value in {"Content-Type": "application/json", **length, **what.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self._write(what.body[: what.cut], what.drip)
        self.close_connection = what.cut is not None or what.endless
        until = time.monotonic() + 60
        with suppress(OSError):
            while what.endless and time.monotonic() < until:
                self._write(what.body, what.drip)

    def flush_headers(self) -> None:
        self._write(b"".join(self._headers_buffer), self._drip)
        self._headers_buffer = []

    def _write(self, data: bytes, drip: float) -> None:
        if not drip:
            self.wfile.write(data)
            return
        with suppress(OSError):
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(drip)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def __init__(self, write: Callable[[str, int], str], fault: Callable[[Asked], Fault | None], port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.write = write
        self.fault = fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed during a request are expected."""


@contextmanager
def serve(
    write: Callable[[str, int], str] = write, fault: Callable[[Asked], Fault | None] = lambda asked: None, port: int = 0
) -> Iterator[str]:
    """The base URL of a running teacher; `write` makes a text from a prompt and a seed.

    `fault` is asked before each answer with the request's document, which is empty for the list of models. `port` 0 is any free one.
    """
    server = _Server(write, fault, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
