"""A hub on loopback: the part of the real hub's API that `datasets` calls, served from local folders.

A folder `ORG/NAME/REVISION` is a data set at a revision. The tested parts, `datasets` and `huggingface_hub`, are the real ones.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class _Hub(BaseHTTPRequestHandler):
    """Serves the data sets under `root`; names in `gated` require a token."""

    root: Path
    gated: frozenset[str]

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, document: Any) -> None:
        self._send(json.dumps(document).encode(), Content_Type="application/json")

    def _folder(self, name: str, revision: str) -> Path | None:
        """The data set at a revision, or None when the refusal has been sent."""
        if not (self.root / name).is_dir():
            return self._refuse(404, "RepoNotFound")
        if name in self.gated and "Authorization" not in self.headers:
            return self._refuse(401, "GatedRepo")
        if not (self.root / name / revision).is_dir():
            return self._refuse(404, "RevisionNotFound")
        return self.root / name / revision

    def _entry(self, folder: Path, path: Path) -> dict[str, Any]:
        oid = hashlib.sha1(path.read_bytes()).hexdigest() if path.is_file() else "0" * 40
        kind = {"type": "file", "size": path.stat().st_size} if path.is_file() else {"type": "directory", "size": 0}
        return {**kind, "oid": oid, "path": path.relative_to(folder).as_posix()}

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        match parts:
            case ["datasets", org, name, "resolve", revision, *rest]:
                if (folder := self._folder(f"{org}/{name}", revision)) is None:
                    return None
                path = folder.joinpath(*rest)
                if not path.is_file():
                    return self._refuse(404, "EntryNotFound")
                content = path.read_bytes()
                etag = hashlib.sha1(content).hexdigest()
                return self._send(content, X_Repo_Commit=revision, ETag=f'"{etag}"', Accept_Ranges="bytes")
            case ["api", "datasets", org, name, "revision", revision]:
                if self._folder(f"{org}/{name}", revision) is None:
                    return None
                return self._json({"id": f"{org}/{name}", "sha": revision, "private": False, "tags": [], "siblings": []})
            case ["api", "datasets", org, name, "tree", revision, *rest]:
                if (folder := self._folder(f"{org}/{name}", revision)) is None:
                    return None
                start = folder.joinpath(*rest)
                if not start.is_dir():
                    return self._refuse(404, "EntryNotFound")
                found = start.rglob("*") if "recursive=true" in self.path.lower() else start.iterdir()
                return self._json([self._entry(folder, path) for path in sorted(found)])
        return self._refuse(404, "EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match parts:
            case ["api", "datasets", org, name, "paths-info", revision]:
                if (folder := self._folder(f"{org}/{name}", revision)) is None:
                    return None
                wanted = json.loads(asked)["paths"]
                return self._json([self._entry(folder, folder / path) for path in wanted if (folder / path).exists()])
        return self._refuse(404, "EntryNotFound")


@contextmanager
def serve(root: Path, gated: frozenset[str] = frozenset()) -> Iterator[str]:
    """The URL of a running hub with the data sets under `root`."""
    handler = type("Hub", (_Hub,), {"root": root, "gated": gated})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
