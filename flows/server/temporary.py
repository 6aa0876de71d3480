"""The temporary Prefect server of a command that runs a flow without a server of its own: each ends when the other does.

Prefect would start such a server by itself, as a plain child: `kill -9` of the command leaves it behind, and if the server is killed, the
command waits for two minutes. Here the server runs under `pipeline/process_guard.py`, which ends it with the command, and a thread of the
command waits for its end. It is handed to Prefect as the server that Prefect would have started.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import httpx
import prefect
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from flows.stage_process import child_environment
from flows.terminal_progress import console
from pipeline.errors import ServerEnded
from pipeline.process_guard import end_descendants, guarded

POLL_SECONDS: Final = 0.1
_REMEDY: Final = (
    "run the same command again to resume; if this repeats, see whether memory runs out, or use a server (docs/production.md)"
)


def start_temporary_server() -> None:
    """Start the temporary server unless a server is configured; called in the main thread, because the guard ends with its starter.

    Raises:
        ServerEnded: it did not start.
    """
    settings = get_current_settings()
    server = SubprocessASGIServer()
    if settings.api.url or server.running:
        return
    server.port = server.find_available_port()
    process = _started(server.port)
    until = time.monotonic() + settings.server.ephemeral.startup_timeout_seconds
    while not _answers(server.api_url):
        if process.poll() is not None or time.monotonic() > until:
            process.terminate()
            raise ServerEnded(f"Prefect's temporary server did not start (exit code {process.wait()}); {_REMEDY}")
        time.sleep(POLL_SECONDS)
    server.server_process, server.running = process, True
    wanted = threading.Event()
    threading.Thread(target=_watch, args=(process, wanted), daemon=True).start()
    atexit.register(_stop, process, wanted)


def _started(port: int) -> subprocess.Popen[bytes]:
    """The server's process; in a session of its own, because Ctrl-C must not end it before the run's last states are written."""
    uvicorn = [
        "uvicorn",
        "--app-dir",
        str(Path(str(prefect.__file__)).parent),
        "--factory",
        "prefect.server.api.server:create_app",
    ]
    settings = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    as_prefect_does = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return subprocess.Popen(
        guarded("-m", *uvicorn, *settings),
        stdin=subprocess.DEVNULL,
        env={**child_environment(), **as_prefect_does, **get_current_settings().to_environment_variables(exclude_unset=True)},
        start_new_session=True,
    )


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _stop(process: subprocess.Popen[bytes], wanted: threading.Event) -> None:
    wanted.set()
    process.terminate()
    process.wait()


def _watch(process: subprocess.Popen[bytes], wanted: threading.Event) -> None:
    """End the command when the server ends: without it, the flow would only repeat its requests. The stage's process is ended before."""
    code = process.wait()
    if wanted.is_set():
        return
    end_descendants()
    if console.is_terminal:
        console.show_cursor(True)  # a progress bar hides it
    print(
        f"mind: Prefect's temporary server ended (exit code {code}); finished work is kept; {_REMEDY}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(ServerEnded.exit_code)
