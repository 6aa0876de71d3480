"""A teacher for fault injection and load: an OpenAI-compatible server on loopback that answers at once.

What it writes are worked solutions of the miniature world, unless its caller has other questions.

The same prompt and seed give the same text, so that runs that were killed can be compared with one that was not, row by row.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipeline.miniature.families import ID_FAMILIES, Problem, ask, distinct
from pipeline.miniature.styles import solution

PROBLEMS: dict[str, Problem] = {
    ask(problem): problem for family in ID_FAMILIES for problem in distinct(family, "train", 400, 0)
}


def write(prompt: str, seed: int) -> str:
    """The rationale that `prompt` (perspective, question) asks for."""
    lines = dict(line.split(": ", 1) for line in prompt.splitlines() if ": " in line)
    return solution(PROBLEMS[lines["Question"]], lines["Perspective"], random.Random(seed))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer({"object": "list", "data": [{"id": "simulated", "object": "model", "created": 0, "owned_by": "tests"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = self.server.write(asked["prompt"], asked["seed"])
        words = len(text.split())
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5] * words}}
        usage = {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words}
        self._answer({"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice], "usage": usage})

    def _answer(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def __init__(self, write: Callable[[str, int], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.write = write

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed in the middle of a request is what this server is for."""


@contextmanager
def serve(write: Callable[[str, int], str] = write) -> Iterator[str]:
    """The base URL of a running teacher; `write` makes its text of a prompt and a seed."""
    server = _Server(write)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
