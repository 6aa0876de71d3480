from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import ArtifactBusy
from storage import lease
from tests.conftest import REPOSITORY

HOLD = """
import sys, time
from pathlib import Path
from pipeline.errors import ArtifactBusy
from storage import lease
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / f"{name}.ready").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
try:
    with lease.hold(folder / "artifact.lease", "training/abc"):
        (folder / f"{name}.won").touch()
        while not (folder / "stop").exists():
            time.sleep(0.01)
except ArtifactBusy as error:
    (folder / f"{name}.busy").write_text(str(error))
"""


def _start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", HOLD, str(folder), name], cwd=REPOSITORY)


def _wait_for(folder: Path, pattern: str, count: int) -> list[Path]:
    until = time.monotonic() + 60
    while len(found := sorted(folder.glob(pattern))) < count:
        assert time.monotonic() < until, f"no {count} files {pattern} in a minute"
        time.sleep(0.01)
    return found


def test_of_four_processes_one_wins_and_a_killed_winner_is_succeeded(tmp_path: Path) -> None:
    processes = [_start(tmp_path, str(number)) for number in range(4)]
    try:
        _wait_for(tmp_path, "*.ready", 4)
        (tmp_path / "go").touch()
        losers = _wait_for(tmp_path, "*.busy", 3)
        winners = _wait_for(tmp_path, "*.won", 1)
        assert len(winners) == 1
        assert {path.stem for path in losers + winners} == {"0", "1", "2", "3"}
        winner = processes[int(winners[0].stem)]
        for loser in losers:
            assert f"training/abc: process {winner.pid} on {socket.gethostname()}" in loser.read_text()
            assert loser.read_text().endswith("wait for it to end, or stop it")

        path = tmp_path / "artifact.lease"
        with pytest.raises(ArtifactBusy, match=str(winner.pid)), lease.hold(path, "training/abc"):
            pass
        winner.kill()
        winner.wait()
        assert path.exists()
        with lease.hold(path, "training/abc"):
            assert json.loads(path.read_text())["pid"] != winner.pid
        assert not path.exists()
    finally:
        (tmp_path / "stop").touch()
        for process in processes:
            process.wait()


def test_a_lease_ends_with_its_body_even_if_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "artifact.lease"
    with pytest.raises(ZeroDivisionError), lease.hold(path, "it"):
        assert lease.holder(path) is not None
        raise ZeroDivisionError
    assert lease.holder(path) is None
    assert not any(thread.name == "lease heartbeat" for thread in threading.enumerate())


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "artifact.lease"
    with lease.hold(path, "it"), pytest.raises(ArtifactBusy), lease.hold(path, "it"):
        pass


@pytest.mark.parametrize(("age", "live"), [(lease.STALE_SECONDS / 2, True), (lease.STALE_SECONDS * 2, False)])
def test_a_lease_of_another_host_lives_as_long_as_its_heartbeat(tmp_path: Path, age: float, live: bool) -> None:
    path = tmp_path / "artifact.lease"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "beat": time.time() - age}))
    assert (lease.holder(path) is not None) is live


def test_a_process_number_that_was_used_again_is_not_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "artifact.lease"
    with lease.hold(path, "it"):
        document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "started": "0"}))
    assert lease.holder(path) is None


def test_a_damaged_lease_has_no_holder(tmp_path: Path) -> None:
    path = tmp_path / "artifact.lease"
    path.write_text("{")
    with lease.hold(path, "it"):
        assert lease.holder(path) is not None
