"""Progress of a running stage in the terminal: a bar with rate and time left, or a line in a log where something changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flows.stage_process import OnProgress
from flows.terminal_door import door_console
from stages.core.progress import counted, finished

console = door_console(120)


_LINE_SECONDS: Final = 15.0


def _eta(found: Mapping[str, Any]) -> str:
    left = found.get("seconds_left")
    return "" if left is None else f"{left:,.0f} s left"


def _watch_bar(bar: Progress, task: TaskID) -> OnProgress:
    def show(found: Mapping[str, Any]) -> None:
        bar.update(
            task,
            completed=finished(found),
            total=found["total"] or None,
            description=f"{found['stage']}: {found['label']}",
            rate=f"{found['rate']:,.1f} {found['unit']}/s" if found["rate"] else "",
            left=_eta(found),
            note=found["note"],
        )

    return show


def _watch_lines() -> OnProgress:
    last: dict[str, Any] = {"label": "", "finished": 0.0, "at": 0.0}

    def show(found: Mapping[str, Any]) -> None:
        now, there = time.monotonic(), found["done"] + found["inside"]
        if found["label"] != last["label"] or (now - last["at"] > _LINE_SECONDS and there != last["finished"]):
            last.update(label=found["label"], finished=there, at=now)
            parts = (part for part in (counted(found), found["note"], _eta(found)) if part)
            console.print(f"  {found['stage']}: {found['label']}: {', '.join(parts)}", markup=False)

    return show


@contextmanager
def watching(stage: str) -> Iterator[OnProgress]:
    """A callback that draws a stage's progress while the body runs it."""
    if not console.is_terminal:
        yield _watch_lines()
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[rate]} {task.fields[left]} [dim]{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _watch_bar(bar, bar.add_task(f"{stage}: starting", total=None, rate="", left="", note=""))
