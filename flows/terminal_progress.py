"""Progress of a running stage: in a terminal one line that is drawn again, elsewhere (a pipe, a log) a line where something changed.

A log gets no line for a stage that ends within ten seconds, and at most one every ten seconds after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from flows.stage_process import OnProgress
from flows.terminal_door import door_console
from stages.core.progress import counted, finished

console = door_console(120)


_LINE_SECONDS: Final = 10.0


def _rest(found: Mapping[str, Any]) -> str:
    """The time left, which is unknown while nothing is finished, and the note; a narrow terminal cuts what is last."""
    left = found["seconds_left"]
    return ", ".join(filter(None, ("" if left is None else f"{in_words(left)} left", found["note"])))


def in_words(seconds: float) -> str:
    """A duration as `42 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _watch_bar(bar: Progress, task: TaskID) -> OnProgress:
    def show(found: Mapping[str, Any]) -> None:
        bar.update(
            task,
            completed=finished(found),
            total=found["total"] or None,
            description=f"{found['stage']:<11} {found['label']}",
            count=counted(found),
            rest=_rest(found),
        )

    return show


def _watch_lines(clock: Callable[[], float] = time.monotonic) -> OnProgress:
    began = at = clock()
    last: tuple[str, float] | None = None

    def show(found: Mapping[str, Any]) -> None:
        nonlocal at, last
        now, there = clock(), (found["label"], found["done"] + found["inside"])
        if now - at < _LINE_SECONDS or there == last:
            return
        at, last = now, there
        said = ", ".join(filter(None, (counted(found), _rest(found))))
        console.print(f"{found['stage']:<11} {in_words(now - began)}: {found['label']}, {said}", markup=False, soft_wrap=True)

    return show


def _one_line(ratio: int | None = None) -> Column:
    return Column(no_wrap=True, overflow="ellipsis", ratio=ratio)


@contextmanager
def watching(stage: str) -> Iterator[OnProgress]:
    """A callback that shows a stage's progress while the body runs it. In a terminal its line is gone at the end."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield _watch_lines()
        return
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("{task.description}", markup=False, table_column=_one_line()),
        BarColumn(bar_width=8),
        TimeElapsedColumn(),
        TextColumn("{task.fields[count]}", table_column=_one_line()),
        TextColumn("{task.fields[rest]}", style="dim", markup=False, table_column=_one_line(1)),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        yield _watch_bar(bar, bar.add_task(f"{stage:<11} starting", total=None, count="", rest=""))
