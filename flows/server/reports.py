"""Serves reports over HTTP, and makes the links to them on Prefect's pages.

A browser opens no file from another page, and least of all one of another machine. So `mind reports` serves the reports of one root or of
several, and nothing else of them; the workers learn its address from `MIND_REPORTS_URL`. A report is a page, or one with pages of samples
beside it. They are served with a policy that allows the script of this version's browser of samples, by its digest, and forbids everything
else: what a page says of itself is not asked, because an imported artifact may say anything.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from stages.report.browser.browse import policy
from storage.artifact import Artifact
from storage.errors import StorageError
from storage.store import Store

REPORTS_URL: Final = "MIND_REPORTS_URL"
"""Environment variable of the machine that runs a flow: the address at which browsers reach `mind reports`."""
REPORT: Final = "report.html"
_PATH: Final = re.compile(r"/([0-9a-f]{16})/(report\.html|samples-[0-9]{4,6}\.html)")
_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": f"{policy()}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def report_link(report: Artifact) -> str | None:
    """The address of a report in a browser; None if none is configured."""
    base = os.environ.get(REPORTS_URL, "").rstrip("/")
    return f"{base}/{report.fingerprint}/{REPORT}" if base else None


def report_place(report: Artifact) -> str:
    """Where a report lies, in Markdown, for a page that cannot link to it."""
    return (
        f"`{report.path(REPORT)}` on `{socket.gethostname()}`\n\nFor a link in this place, run `mind reports ROOT` and set `{REPORTS_URL}` "
        "for the workers (docs/production.md)."
    )


def _page(stores: Sequence[Store], path: str) -> bytes | None:
    """The report of a request's path, or a page of its samples, or None."""
    found = _PATH.fullmatch(path)
    for store in stores if found else ():
        assert found is not None
        try:
            page = store.open("report", found[1]).path(found[2])
        except StorageError:
            continue
        if page.is_file() and not page.is_symlink():
            return page.read_bytes()
    return None


def report_server(stores: Sequence[Store], host: str, port: int) -> ThreadingHTTPServer:
    """A server of the reports of `stores`; the caller runs it.

    Raises:
        OSError: the address cannot be used.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            page = _page(stores, self.path)
            if page is None:
                self.send_error(HTTPStatus.NOT_FOUND, explain="No such report.")
                return
            self.send_response(HTTPStatus.OK)
            for name, value in {**_HEADERS, "Content-Length": str(len(page))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(page)

        def version_string(self) -> str:
            return "mind"

        def log_message(self, format: str, *values: object) -> None:
            """Nothing: the address of a request could hold anything."""

    return ThreadingHTTPServer((host, port), Handler)
