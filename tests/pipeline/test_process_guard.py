"""Process guard: no child outlives a guarded command, its guard or the guard's parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.process_guard import guarded
from tests.support.prefect.server import eventually, processes_with
from tests.support.runs import REPOSITORY

# A command that starts a grandchild and writes both pids; with "stubborn" it ignores SIGTERM.
FAMILY = """
import os, signal, subprocess, sys, time
if "stubborn" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
if "leave" in sys.argv: sys.exit(7)
time.sleep(600)
"""


AS_PARENT = "import os, subprocess, sys; guard = sys.argv[1:]; guard[3] = str(os.getpid()); "
"""Makes a process between the test and the guard the guard's parent."""


def started(path: Path, *words: str, through: str | None = None) -> subprocess.Popen[bytes]:
    command = guarded("-c", FAMILY, str(path), *words)
    if through is not None:
        command = [sys.executable, "-c", through, *command]
    return subprocess.Popen(command, cwd=REPOSITORY)


def family(path: Path) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while not path.exists() or len(path.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [psutil.Process(int(pid)) for pid in path.read_text().split()]


def all_gone(processes: list[psutil.Process]) -> bool:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
            return True
        time.sleep(0.1)
    return False


def test_the_guard_returns_the_exit_code_and_ends_the_children(tmp_path: Path) -> None:
    guard = started(tmp_path / "pids", "leave")
    assert guard.wait(20) == 7
    (grandchild,) = [int((tmp_path / "pids").read_text().split()[1])]
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("words", [(), ("stubborn",)])
def test_terminating_the_guard_ends_all_processes(tmp_path: Path, words: tuple[str, ...]) -> None:
    guard = started(tmp_path / "pids", *words)
    processes = family(tmp_path / "pids")
    guard.send_signal(signal.SIGTERM)
    assert guard.wait(20) == 143
    assert all_gone(processes)


def test_killing_the_parent_ends_all_processes(tmp_path: Path) -> None:
    parent = started(tmp_path / "pids", through=f"{AS_PARENT}subprocess.run(guard)")
    processes = family(tmp_path / "pids")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert all_gone(processes)


def test_a_parent_that_ends_before_the_guard_looks_leaves_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        started(tmp_path / "pids", through=f"{AS_PARENT}subprocess.Popen(guard); os._exit(0)").wait(20)
        eventually(lambda: not processes_with(str(tmp_path)), "the end of guard and command", 20)


def test_killing_the_guard_ends_the_command(tmp_path: Path) -> None:
    guard = started(tmp_path / "pids")
    command, grandchild = family(tmp_path / "pids")
    guard.kill()
    guard.wait()
    assert all_gone([command])
    grandchild.kill()


def test_killing_the_command_ends_its_children(tmp_path: Path) -> None:
    guard = started(tmp_path / "pids")
    processes = family(tmp_path / "pids")
    processes[0].kill()
    assert guard.wait(20) == 137
    assert all_gone(processes)
