"""Measures a stage's peak memory: the sum of the resident sets of its process and all descendants, sampled twice a second.

Shared pages are counted once per process, so the figure is an upper bound.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psutil

_SECONDS: Final = 0.5


class Peak:
    """The largest sum measured so far, in bytes."""

    def __init__(self) -> None:
        self.bytes = 0

    def look(self) -> None:
        """Take one measurement."""
        total = 0
        for process in (own := psutil.Process(), *own.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        self.bytes = max(self.bytes, total)


@contextmanager
def watched_memory() -> Iterator[Peak]:
    """Measure in a background thread while the body runs."""
    peak, stop = Peak(), threading.Event()

    def watch() -> None:
        while not stop.wait(_SECONDS):
            peak.look()

    thread = threading.Thread(target=watch, daemon=True, name="memory")
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak.look()
