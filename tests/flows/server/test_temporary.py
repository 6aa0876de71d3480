"""The temporary Prefect server ends with its command, whatever ends the command; and a command whose server ends says so and stops."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.support.end_to_end import command, environment
from tests.support.kill_campaign import CONFIG, overrides
from tests.support.prefect.server import eventually, processes_with
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e


class Running(NamedTuple):
    """A command in its second stage, its server and its other processes."""

    command: subprocess.Popen[str]
    guard: psutil.Process
    server: psutil.Process
    others: list[psutil.Process]


@pytest.fixture
def running(request: pytest.FixtureRequest, teacher: str, tmp_path: Path) -> Iterator[Running]:
    changes = [word for change in overrides(tmp_path, teacher) for word in ("--set", change)]
    process = subprocess.Popen(
        command(request.param, str(CONFIG), *changes),
        cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        eventually(lambda: processes_with(str(tmp_path / "references")), "the second stage")
        family = psutil.Process(process.pid).children(recursive=True)
        guard, server = sorted(
            (child for child in family if "uvicorn" in child.cmdline()), key=lambda child: child.create_time()
        )
        yield Running(process, guard, server, [child for child in family if child not in (guard, server)])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("running", ["run", "redistill"], indirect=True)
def test_the_server_ends_with_a_killed_command(running: Running) -> None:
    running.command.kill()
    _, alive = psutil.wait_procs([running.guard, running.server, *running.others], timeout=15)
    assert not alive, [child.cmdline() for child in alive]


@pytest.mark.parametrize(("running", "victim"), [("run", "server"), ("redistill", "guard")], indirect=["running"])
def test_a_command_whose_server_is_killed_ends_with_one_line_and_a_remedy(running: Running, victim: str) -> None:
    began = time.monotonic()
    getattr(running, victim).send_signal(signal.SIGKILL)
    _, errors = running.command.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert running.command.returncode == 1
    (line,) = errors.strip().splitlines()
    assert "temporary server ended" in line
    assert "run the same command again to resume" in line
    _, alive = psutil.wait_procs([running.guard, running.server, *running.others], timeout=15)
    assert not alive, [child.cmdline() for child in alive]
