"""Writes TensorBoard event files, one folder per run: `tensorboard --logdir ROOT/tracking/tensorboard`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.tracking.tracker import TrackedRun, Tracker
from pipeline.config.tracking import Tracking


class _TensorBoard:
    def __init__(self, writer: Any, sent: int) -> None:
        self._writer, self._step = writer, sent

    def last_step(self) -> int | None:
        return None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._step = step

    def summarise(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"summary/{name}", value, self._step)

    def keep(self, page: Path) -> None:
        self._writer.add_text("report", str(page), self._step)

    def close(self, failed: bool) -> None:
        self._writer.close()


def open_tensorboard(run: TrackedRun, tracking: Tracking, sent: int) -> Tracker:
    """Event files of the run; points after step `sent` that a killed process wrote are marked as superseded."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder / "tensorboard" / run.title
    new = not folder.exists()
    writer: Any = SummaryWriter(str(folder), purge_step=None if new else sent + 1)
    if new:
        writer.add_text("config", "\n".join(f"    {line}" for line in json.dumps(run.config, indent=2).splitlines()))
    return _TensorBoard(writer, sent)
