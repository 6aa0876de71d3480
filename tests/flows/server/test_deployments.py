"""`mind deploy` waits for a server that is slow to start, and says what to do if none answers; the folder's Prefect settings apply."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flows.server.deployments import wait_for_server
from pipeline.errors import ConfigError
from tests.support.prefect.server import free_port
from tests.support.runs import REPOSITORY


def serve_late(port: int, after: float, refusals: int) -> None:
    """A server that exists after some seconds, and is well after some requests more."""
    left = [refusals]

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if left[0] > 0 or self.path != "/api/health" else 200)
            left[0] -= 1
            self.end_headers()

        def log_message(self, format: str, *values: object) -> None: ...

    def run() -> None:
        time.sleep(after)
        with HTTPServer(("127.0.0.1", port), Health) as server:
            for _ in range(refusals + 1):
                server.handle_request()

    threading.Thread(target=run, daemon=True).start()


def test_a_server_that_starts_late_is_waited_for() -> None:
    port = free_port()
    serve_late(port, after=1.5, refusals=2)
    began = time.monotonic()
    wait_for_server(f"http://127.0.0.1:{port}/api", 30)
    assert time.monotonic() - began > 1.5


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "not an address", "http://nowhere.invalid/api"])
def test_without_a_server_the_message_names_it_and_the_remedy(url: str) -> None:
    with pytest.raises(ConfigError, match=r"no healthy Prefect server after 0 s .*prefect server start"):
        wait_for_server(url, 0)


def test_prefects_files_of_this_folder_stay_out_of_the_home_folder(tmp_path: Path) -> None:
    script = (
        "from prefect.settings import get_current_settings as s; server = s().server;"
        "print(server.memo_store_path, server.concurrency.lease_storage, server.analytics_enabled)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, env={**environment, "PREFECT_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout.split() == [
        ".prefect/memo_store.toml",
        "prefect.server.concurrency.lease_storage.filesystem",
        "False",
    ]
