"""One writer per artifact: a lease file with a heartbeat.

The holder rewrites the lease every few seconds. Another process that finds a live lease leaves with a message; a lease whose
holder is gone (its process on this host is dead, or the heartbeat is older than `STALE_SECONDS`) is taken over. The check and
the take-over happen under a file lock, so two processes cannot both win.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
from filelock import FileLock

from pipeline.errors import ArtifactBusy
from storage.atomic import write_bytes

HEARTBEAT_SECONDS: Final = 5.0
STALE_SECONDS: Final = 60.0


def _process_started(pid: int) -> float | None:
    """When a live process started, so that a reused pid is not mistaken for the holder; None where there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def _mine() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _process_started(pid)}


def _is_live(lease: dict[str, Any]) -> bool:
    if lease["host"] == socket.gethostname():
        return bool(lease["started"] is not None and _process_started(lease["pid"]) == lease["started"])
    return time.time() - float(lease["beat"]) < STALE_SECONDS


def holder(path: Path) -> dict[str, Any] | None:
    """The live holder of a lease, if any."""
    try:
        lease: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return lease if _is_live(lease) else None


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lease at `path` while the body runs.

    Raises:
        ArtifactBusy: a live process holds it.
    """
    with FileLock(path.with_suffix(".lock")):
        other = holder(path)
        if other is not None:
            raise ArtifactBusy(
                f"{what}: process {other['pid']} on {other['host']} is writing it; wait for it to end, or stop it"
            )
        _beat(path)
    stop = threading.Event()
    thread = threading.Thread(target=_heartbeat, args=(path, stop), daemon=True, name="lease heartbeat")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _release(path)


def _release(path: Path) -> None:
    """Remove the lease if it is still this process's; one that was taken over meanwhile is left alone."""
    with FileLock(path.with_suffix(".lock")):
        found = holder(path)
        if found is not None and (found["host"], found["pid"]) == (socket.gethostname(), os.getpid()):
            path.unlink()


def _beat(path: Path) -> None:
    write_bytes(path, json.dumps({**_mine(), "beat": time.time()}).encode())


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        try:
            _beat(path)
        except OSError:  # a full disk or a slow share: the next beat may get through, and until then this process is alive
            continue
