"""Reports a stage's progress: a small file, replaced at most twice a second, and plain log lines.

The command line draws a progress bar from the file, and Prefect shows it; the lines are for logs. A unit is done when it is committed. What
is finished inside a unit or shard that is not committed yet is counted apart, since a slow engine may need many minutes for a shard.
Engines report from their own threads.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any, Final

_FILE_SECONDS: Final = 0.5
_LINE_SECONDS: Final = 10.0
_WINDOW_SECONDS: Final = 60.0
"""Tokens per second are those of the last minute."""


def measured_path(progress: Path) -> Path:
    """The file beside a progress file that a running training appends its steps to, for trackers."""
    return progress.with_suffix(".measured")


def read_progress(path: Path) -> dict[str, Any] | None:
    """The last progress that a stage wrote, or None."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def counted(found: Mapping[str, Any]) -> str:
    """What is finished of all, committed or not, in words."""
    return f"{finished(found):,}/{found['total']:,} {found['unit']}"


def finished(found: Mapping[str, Any]) -> int:
    """Whole finished units, committed or not."""
    return min(int(found["total"]), int(found["done"] + found["inside"] + 1e-6))


@dataclass
class Progress:
    """Counts the finished units of one stage. `done` starts above zero if a stage resumes."""

    path: Path
    stage: str
    label: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    inside: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _first: int = 0
    _filed: float = 0.0
    _lined: float = 0.0
    _texts: int = 0
    _tokens: deque[tuple[float, int]] = field(default_factory=deque)
    _lock: RLock = field(default_factory=RLock)

    def start(self, label: str, total: int, unit: str, done: int = 0) -> None:
        """Start a new part of the stage."""
        with self._lock:
            self.label, self.total, self.unit, self.done, self.inside = label, total, unit, done, 0.0
            self._first, self._began, self._filed, self._lined = done, time.monotonic(), 0.0, time.monotonic()
            self._texts = 0
            self._tokens.clear()
            resumed = f", {done} already done" if done else ""
            print(f"{self.stage}: {label}: {total} {unit}{resumed}", flush=True)
            self._write()

    def advance(self, count: int, note: str = "") -> None:
        """Record `count` more committed units."""
        with self._lock:
            self.done += count
            self.inside = max(0.0, self.inside - count)
            self._show(note, at_once=self.done >= self.total)

    def within(self, units: float, note: str = "") -> None:
        """Record units, or a part of one, that are finished and will be committed later."""
        with self._lock:
            self.inside = min(self.inside + units, float(self.total - self.done))
            self._show(note)

    def answered(self, tokens: int, units: float = 1.0, more: str = "") -> None:
        """Record a text of some tokens, which finishes `units`, a unit or a part of one; `more` ends the line. Threads may call it."""
        with self._lock:
            self._texts += 1
            self._tokens.append((time.monotonic(), tokens))
            self.within(units, f"{self._texts:,} texts, {self._token_rate():,.0f} tokens/s{more}")

    def measured(self, document: Mapping[str, Any]) -> None:
        """Append what was measured at a step as a JSON line, for whoever watches; the log in the artifact has it too."""
        with suppress(OSError), measured_path(self.path).open("a") as lines:
            lines.write(json.dumps(document) + "\n")

    def rate(self) -> float:
        """Units per second that this process has finished since `start`, committed or not."""
        return (self.done + self.inside - self._first) / max(1e-9, time.monotonic() - self._began)

    def _token_rate(self) -> float:
        now = time.monotonic()
        while self._tokens[0][0] < now - _WINDOW_SECONDS:
            self._tokens.popleft()
        return sum(tokens for _, tokens in self._tokens) / max(1e-3, min(_WINDOW_SECONDS, now - self._began))

    def _show(self, note: str, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._filed > _FILE_SECONDS:
            self._write(note)
        if now - self._lined > _LINE_SECONDS:
            self._lined = now
            print(f"{self.stage}: {self.label}: {counted(self._document(note))} {note}".rstrip(), flush=True)

    def _document(self, note: str) -> dict[str, Any]:
        rate = self.rate()
        return {
            "stage": self.stage,
            "label": self.label,
            "done": self.done,
            "inside": round(self.inside, 3),
            "total": self.total,
            "unit": self.unit,
            "rate": rate,
            "seconds_left": (self.total - self.done - self.inside) / rate if rate > 0 else None,
            "note": note,
        }

    def _write(self, note: str = "") -> None:
        self._filed = time.monotonic()
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(self._document(note)))
            temporary.replace(self.path)
        except OSError:  # a full or read-only disk must not abort the stage here: what it commits next names the cause
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
