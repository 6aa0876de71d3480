"""The protocol of an experiment tracker, and the run that it shows.

A tracker's run is one training: its id is the training's fingerprint, so a resumed training continues its curves, and a changed one has new
ones. A configuration that only changes what comes after training sends its summaries to the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker says about a run: its name, its id, its configuration as plain data, and a folder for the tracker's own files."""

    name: str
    id: str
    config: dict[str, Any]
    folder: Path

    @property
    def title(self) -> str:
        """A name that is unique among the runs of a root."""
        return f"{self.name}-{self.id}"


class Tracker(Protocol):
    """A tracker's run that is open. Every method may raise what its library raises."""

    def last_step(self) -> int | None:
        """The last training step that it has; None if it cannot tell."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add points to the curves at one step; steps are counted from 1 and never fall."""
        ...

    def summarise(self, values: Mapping[str, float]) -> None:
        """Set numbers of a finished stage."""
        ...

    def keep(self, page: Path) -> None:
        """Store the report's page."""
        ...

    def close(self, failed: bool) -> None:
        """Deliver what was sent and end the connection; `failed` says how the run ended."""
        ...
