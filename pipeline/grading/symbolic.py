"""Compares two expressions with math-verify in a separate process with limits on time and memory.

sympy can run forever, or use all memory, on model output. math-verify limits its time by `signal.alarm` and a Python handler: this works in
the main thread only, replaces any other alarm, and counts a timed-out comparison as unequal. Here it runs in a process that limits its own
time through the kernel (`symbolic_worker.py`) and whose memory is monitored by the parent. If a pair of expressions ends the process, the
pair is undecided and the next pair gets a new process. The worker is a fresh interpreter, not a fork or a `multiprocessing` child: the
stage holds an engine, threads and gigabytes of memory, and a closed pipe tells the worker that its parent has exited.
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
from typing import Final

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
_lock = threading.Lock()
_running: dict[int, subprocess.Popen[bytes]] = {}
"""Workers by the pid of the process that uses them: a forked process must not share its parent's pipes."""


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


def stop() -> None:
    """Ends this process's worker, if it has one."""
    worker = _running.pop(os.getpid(), None)
    if worker is not None:
        worker.kill()
        worker.communicate()


atexit.register(stop)


@lru_cache(maxsize=1 << 14)
def equal(answer: str, gold: str) -> bool | None:
    """Whether two expressions are equal; `None` if the comparison exceeded its time or memory limit.

    Raises:
        GradingError: math-verify cannot be started.
    """
    line = orjson.dumps([answer, gold]) + b"\n"
    with _lock:
        # Retry once: the worker may have been killed from outside, for example together with an engine's processes.
        for _ in range(2):
            worker = _running.get(os.getpid()) or _running.setdefault(os.getpid(), _start())
            result = _ask(worker, line)
            if result is not None:
                return bool(result)
            ended = worker.wait()
            stop()
            if ended in _OF_A_PAIR:
                break
    return None
