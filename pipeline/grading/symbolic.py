"""Compares two expressions with math-verify in a separate process with limits on time and memory.

sympy can run forever, or use all memory, on model output. math-verify limits its time by `signal.alarm` and a Python handler: this works
in the main thread only, replaces any other alarm, and counts a timed-out comparison as unequal. Here it runs in a process that limits its
own time through the kernel (`symbolic_worker.py`) and whose memory is monitored by the parent. If a pair of expressions ends the process,
the pair is undecided and the next pair gets a new process. Threads that compare at the same time use several workers, one for each
processor up to `WORKERS`, and every distinct pair is compared once for each grading process (`lru_cache`). The worker is a fresh
interpreter, not a fork or a `multiprocessing` child: the stage holds an engine, threads and gigabytes of memory, and a closed pipe tells
the worker that its parent has exited.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import orjson
import psutil

from pipeline.errors import GradingError

CPU_SECONDS: Final = 5.0
BYTES: Final = 1 << 30
_MOST_BYTES: Final = 4 << 30
"""Address-space limit set in the kernel; between two memory checks the process stays far below it."""
_LOOK_MILLISECONDS: Final = 50
_WORKER: Final = Path(__file__).with_name("symbolic_worker.py")
_OF_A_PAIR: Final = (-signal.SIGPROF, -signal.SIGALRM, -signal.SIGSEGV)
WORKERS: Final = min(8, len(os.sched_getaffinity(0)))
"""Most workers of one grading process."""
_MOST_PAIRS: Final = 1 << 17
"""Pairs whose result is remembered, about 200 bytes each."""


class _Workers(NamedTuple):
    """The workers of one process: all, those that wait for a pair, and the right to use one."""

    every: list[subprocess.Popen[bytes]]
    idle: list[subprocess.Popen[bytes]]
    slots: threading.BoundedSemaphore


_running: dict[int, _Workers] = {}
"""Workers by the pid of the process that uses them: a forked process must not share its parent's pipes."""


def _mine() -> _Workers:
    return _running.setdefault(os.getpid(), _Workers([], [], threading.BoundedSemaphore(WORKERS)))


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", str(_WORKER), str(CPU_SECONDS), str(_MOST_BYTES)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if _said(worker) is None:
        raise GradingError(f"math-verify does not start (exit code {worker.wait()}); pip install 'math-verify[antlr4_13_2]'")
    return worker


def _said(worker: subprocess.Popen[bytes]) -> object | None:
    """The worker's next line; `None` if the worker has exited."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    return orjson.loads(line) if line.endswith(b"\n") else None


def _ask(worker: subprocess.Popen[bytes], line: bytes) -> object | None:
    """The worker's reply to a line; `None` if it exited, or used too much memory and was ended like a timed-out worker."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(line)
        worker.stdin.flush()
    except BrokenPipeError:
        return None
    ready = select.poll()
    ready.register(worker.stdout, select.POLLIN)
    while not ready.poll(_LOOK_MILLISECONDS):
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(worker.pid).memory_info().rss > BYTES:
                worker.send_signal(signal.SIGPROF)
    return _said(worker)


def _end(worker: subprocess.Popen[bytes]) -> int:
    """Ends a worker and closes its pipes; its exit code."""
    worker.kill()
    worker.communicate()
    return worker.returncode


def stop() -> None:
    """Ends this process's workers, if it has any."""
    workers = _running.pop(os.getpid(), None)
    for worker in workers.every if workers else ():
        _end(worker)


atexit.register(stop)


def _take(mine: _Workers) -> subprocess.Popen[bytes]:
    """An idle worker, or a new one. A list's `pop` and `append` are atomic, so threads never get the same worker."""
    try:
        return mine.idle.pop()
    except IndexError:
        worker = _start()
        mine.every.append(worker)
        return worker


@lru_cache(maxsize=_MOST_PAIRS)
def equal(answer: str, gold: str) -> bool | None:
    """Whether two expressions are equal; `None` if the comparison exceeded its time or memory limit. Any thread may ask.

    Raises:
        GradingError: math-verify cannot be started.
    """
    line = orjson.dumps([answer, gold]) + b"\n"
    mine = _mine()
    with mine.slots:
        # Retry: workers may have been killed from outside, for example together with an engine's processes.
        for _ in range(WORKERS + 1):
            worker = _take(mine)
            result = _ask(worker, line)
            if result is not None:
                mine.idle.append(worker)
                return bool(result)
            ended = worker.wait()
            mine.every.remove(worker)
            _end(worker)
            if ended in _OF_A_PAIR:
                break
    return None
