"""Times implementations of the same work in alternation, so that a disturbance affects neighbouring repeats of all sides.

Without a GPU, time is the CPU time of this process and its descendants, so other load on the machine does not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import psutil

Once = Callable[[], float]
"""Does the work once and returns its amount, in a unit that the sides of a comparison share."""


def clock() -> float:
    """Seconds: wall time with a GPU, CPU time without."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    spent = time.process_time()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


class Ratio(NamedTuple):
    """Median, over repeats, of one side's rate relative to another's in the same repeat, and the interquartile range."""

    median: float
    low: float
    high: float


def rates(sides: Mapping[str, Once], repeats: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Work per second of every side, by repeat. A first repeat warms up and is discarded; each repeat starts with another side."""
    names = list(sides)
    found: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(-1, repeats):
        first = repeat % len(names)
        for name in (*names[first:], *names[:first]):
            began = clock()
            work = sides[name]()
            if repeat >= 0:
                found[name].append(work / (clock() - began))
        say(f"repeat {repeat + 1} of {repeats}")
    return found


def ratio(mine: Sequence[float], other: Sequence[float]) -> Ratio:
    """Ratio of two sides' rates, taken in the same repeats."""
    each = [a / b for a, b in zip(mine, other, strict=True)]
    low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else (each[0], each[0], each[0])
    return Ratio(statistics.median(each), low, high)
