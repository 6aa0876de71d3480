"""Runs one command and terminates all of its processes in the end: `python -m pipeline.process_guard PARENT COMMAND...`.

It sits between the caller and a process tree: a stage's, or a temporary server's. If the parent exits, if the guard is told to stop, or if
the command ends, every descendant is terminated: SIGTERM, a grace period, SIGKILL. Orphans of the command become children of the guard
(Linux: subreaper), so a rank or an engine core whose parent was killed is terminated too. A killed guard takes the command with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Final

import psutil

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
GRACE_SECONDS: Final = 8.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def guarded(*command: str) -> list[str]:
    """The command line that runs `python COMMAND...` guarded, as a child of this process.

    It has this process's number, because this process may be killed before the guard can look at its parent.
    """
    return [sys.executable, "-m", "pipeline.process_guard", str(os.getpid()), sys.executable, *command]


def _end_with_parent() -> None:
    """Request SIGTERM when the parent exits (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _adopt_orphans() -> None:
    """Become the parent of our descendants' orphans (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_descendants() -> None:
    """Terminate all descendants of this process: SIGTERM, a grace period, SIGKILL."""
    ours = psutil.Process().children(recursive=True)
    for process in ours:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(ours, timeout=GRACE_SECONDS)
    for process in alive + psutil.Process().children(recursive=True):
        _signal(process, signal.SIGKILL)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


class _StoppedError(Exception):
    """The guard was told to stop."""


def _stop(number: int, frame: FrameType | None) -> None:
    for other in _SIGNALS:  # a second signal must not interrupt the termination
        signal.signal(other, signal.SIG_IGN)
    raise _StoppedError


def guard(parent: int, command: list[str]) -> int:
    """Run `command` while the process `parent` lives; returns its exit code, or 143 when stopped from outside."""
    _end_with_parent()
    _adopt_orphans()
    for number in _SIGNALS:
        signal.signal(number, _stop)
    try:
        if os.getppid() != parent:
            raise _StoppedError
        process = subprocess.Popen(command, preexec_fn=_end_with_parent)  # for a guard that is killed; it has one thread
        while (answer := process.poll()) is None:
            if os.getppid() != parent:  # it exited before prctl was called
                raise _StoppedError
            time.sleep(0.1)
        code = answer if answer >= 0 else 128 - answer
    except _StoppedError:
        code = 143
    end_descendants()
    return code


if __name__ == "__main__":
    raise SystemExit(guard(int(sys.argv[1]), sys.argv[2:]))
