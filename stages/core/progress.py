"""Reports a stage's progress: a small file, replaced at most twice a second, and plain log lines.

The command line draws a progress bar from the file, and Prefect shows it; the lines are for logs.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_FILE_SECONDS: Final = 0.5
_LINE_SECONDS: Final = 10.0


def read_progress(path: Path) -> dict[str, Any] | None:
    """The last progress that a stage wrote, or None."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


@dataclass
class Progress:
    """Counts the finished units of one stage. `done` starts above zero if a stage resumes."""

    path: Path
    stage: str
    label: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    _began: float = field(default_factory=time.monotonic)
    _first: int = 0
    _filed: float = 0.0
    _lined: float = 0.0

    def start(self, label: str, total: int, unit: str, done: int = 0) -> None:
        """Start a new part of the stage."""
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._first, self._began, self._filed, self._lined = done, time.monotonic(), 0.0, time.monotonic()
        resumed = f", {done} already done" if done else ""
        print(f"{self.stage}: {label}: {total} {unit}{resumed}", flush=True)
        self._write()

    def advance(self, count: int, note: str = "") -> None:
        """Record `count` more committed units."""
        self.done += count
        now = time.monotonic()
        if now - self._filed > _FILE_SECONDS or self.done >= self.total:
            self._write(note)
        if now - self._lined > _LINE_SECONDS:
            self._lined = now
            print(f"{self.stage}: {self.label}: {self.done}/{self.total} {self.unit} {note}".rstrip(), flush=True)

    def rate(self) -> float:
        """Units per second since `start`."""
        return (self.done - self._first) / max(1e-9, time.monotonic() - self._began)

    def _write(self, note: str = "") -> None:
        self._filed = time.monotonic()
        rate = self.rate()
        document = {
            "stage": self.stage,
            "label": self.label,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "rate": rate,
            "seconds_left": (self.total - self.done) / rate if rate > 0 else None,
            "note": note,
        }
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(document))
            temporary.replace(self.path)
        except OSError:  # a full disk must not abort the stage, whose data may still be committed
            temporary.unlink(missing_ok=True)
