"""An S3 server for tests: moto behind a proxy that injects faults.

Every request of the code under test goes through the proxy. PUTs are forwarded one at a time, because moto checks and stores an object in
two steps, so two concurrent conditional puts could both succeed.
"""

from __future__ import annotations

import http.client
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_BUCKETS = itertools.count()
_CONDITION = "if-none-match"


@dataclass
class Fault:
    """A fault for requests of one method whose key contains a text.

    What: an HTTP status, `drop before` or `drop after` (the connection ends before or after the request has reached the store),
    `stall` (no answer for some seconds, then forwarded), `unconditional` (the store knows no condition), `unnamed` (the store does not
    say which condition failed), or a function that is called before forwarding and says whether to forward.
    """

    what: int | str | Callable[[], bool]
    method: str = "PUT"
    key: str = ""
    skip: int = 0
    times: int = 1_000_000
    met: int = 0

    def matches(self, method: str, key: str) -> bool:
        """Whether the fault applies to this request."""
        if method != self.method or self.key not in key:
            return False
        self.met += 1
        return self.skip < self.met <= self.skip + self.times


@dataclass
class Proxy:
    """The proxy between the code under test and the store."""

    moto: int
    stall_seconds: float = 1.0
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        """Injects these faults while the body runs."""
        self.faults += faults
        try:
            yield
        finally:
            self.faults.clear()

    def ask(self, method: str, path: str, body: bytes = b"", headers: Any = None) -> tuple[int, Any, bytes]:
        """Sends one request to moto directly."""
        connection = http.client.HTTPConnection("127.0.0.1", self.moto)
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = unquote(urlsplit(self.path).path)
        self.proxy.seen.append((self.command, key))
        faults = [fault.what for fault in list(self.proxy.faults) if fault.matches(self.command, key)]
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
        for fault in faults:
            if isinstance(fault, int):
                return self._answer(fault, [], b"<Error><Code>InternalError</Code><Message>by schedule</Message></Error>")
            if fault == "drop before" or (callable(fault) and not fault()):
                return self._hang_up()
            if fault == "stall":
                time.sleep(self.proxy.stall_seconds)
            if fault == "unconditional":
                headers = {name: value for name, value in headers.items() if name.lower() != _CONDITION}
        if self.command == "PUT":
            with self.proxy.one_at_a_time:
                status, answered, content = self.proxy.ask("PUT", self.path, body, headers)
        else:
            status, answered, content = self.proxy.ask(self.command, self.path, body, headers)
        if "drop after" in faults:
            return self._hang_up()
        if "unnamed" in faults:
            content = content.replace(b"<Condition>If-None-Match</Condition>", b"")
        self._answer(status, answered, content)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value if self.command == "HEAD" else length
            elif name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that were killed or timed out."""


@dataclass(frozen=True)
class S3:
    """The server as seen by a test."""

    proxy: Proxy
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that a process needs to reach the server."""
        return {
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }

    def root(self) -> str:
        """A URL in a new bucket."""
        bucket = f"mind-{next(_BUCKETS)}"
        assert self.proxy.ask("PUT", f"/{bucket}")[0] == 200
        return f"s3://{bucket}/artifacts"


@contextmanager
def serve_s3() -> Iterator[S3]:
    """Runs a server while the body runs."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    proxy = Proxy(moto.get_host_and_port()[1])
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield S3(proxy, server.server_address[1])
    finally:
        server.shutdown()
        moto.stop()
