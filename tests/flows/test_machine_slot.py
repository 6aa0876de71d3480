"""Machine slot without a server: accelerator stages run one at a time, and a kill frees the slot at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.runs import REPOSITORY

# Requests the slot and holds it until stdin closes.
HOLDER = """
import sys
from flows.machine_slot import machine_slot
from prefect.logging import disable_run_logger
with disable_run_logger():
    print("asks", flush=True)
    with machine_slot("sampling"):
        print("holds", flush=True)
        sys.stdin.read()
"""


def holder(home: Path) -> subprocess.Popen[str]:
    """A process that has requested the slot."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=REPOSITORY, env={**clean, "PREFECT_HOME": str(home)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "asks\n"
    return process


def says_that_it_holds(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "holds\n"


def test_the_machine_slot_is_freed_when_its_holder_is_killed(tmp_path: Path) -> None:
    first = holder(tmp_path)
    assert says_that_it_holds(first)
    second = holder(tmp_path)
    assert second.stdout is not None
    os.set_blocking(second.stdout.fileno(), False)
    time.sleep(2)
    assert second.stdout.readline() == ""
    os.set_blocking(second.stdout.fileno(), True)
    first.kill()
    assert says_that_it_holds(second)
    second.communicate("", timeout=60)
    assert second.returncode == 0
    first.communicate()
