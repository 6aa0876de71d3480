"""Promise 4 with vLLM and the whole flow: kill -9 or Ctrl-C, run again, and no work is lost. Other kills: tests/faults."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from storage.fingerprint import file_digest
from tests.support.end_to_end import Run, command, environment, mind, overrides
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e


def copy_of(run: Run, folder: Path, *stages: str) -> Path:
    for stage in stages:
        shutil.copytree(run.artifact(stage), folder / stage / run.artifact(stage).name)
    return folder


def kill_when(stage: str, root: Path, reached: Callable[[], bool]) -> None:
    """Starts a stage, sends SIGKILL to the command once `reached`, and asserts that no child process survives."""
    arguments = command("stage", stage, "configs/miniature.yaml", *overrides(root))
    process = subprocess.Popen(
        arguments, cwd=REPOSITORY, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, "the stage ended before it could be killed"
        assert time.monotonic() < deadline, "the stage never came so far"
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2, "the guard and the stage; on a CPU vLLM starts no more"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, [child.cmdline() for child in alive]


def test_sampling_resumes_after_a_kill_without_lost_or_duplicate_rows(finished: Run, tmp_path: Path) -> None:
    root = copy_of(finished, tmp_path, "questions")
    kill_when("sampling", root, lambda: bool(list(root.glob("sampling/*.partial/samples-00000.parquet"))))
    kept = file_digest(next(root.glob("sampling/*.partial/samples-00000.parquet")))
    answer = mind("stage", "sampling", "configs/miniature.yaml", *overrides(root))
    assert answer.returncode == 0, answer.stderr
    resumed = Run(root, "")
    assert file_digest(resumed.artifact("sampling") / "samples-00000.parquet") == kept
    rows = [run.rows("sampling", "samples") for run in (finished, resumed)]
    keys = [sorted((row["question_id"], row["perspective"], row["sample_index"]) for row in found) for found in rows]
    assert len(set(keys[1])) == len(keys[1])
    assert {key[:2] for key in keys[0]} == {key[:2] for key in keys[1]}


def run_until_sampling(root: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A `mind run` in a new process group that has reached sampling, and its child processes."""
    for old in root.glob("sampling/*.progress"):
        old.unlink()
    process = subprocess.Popen(
        command("run", "configs/miniature.yaml", *overrides(root)),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not list(root.glob("sampling/*.progress")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process, psutil.Process(process.pid).children(recursive=True)


def test_a_run_killed_with_its_terminal_can_be_started_again(finished: Run, tmp_path: Path) -> None:
    """The temporary Prefect server dies with the command, so the concurrency slots of the run are never released."""
    root = copy_of(finished, tmp_path, "questions", "references")
    for _ in range(2):
        process, family = run_until_sampling(root)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, [child.cmdline() for child in alive]


def test_ctrl_c_stops_the_run_with_a_message_and_work_can_resume(finished: Run, tmp_path: Path) -> None:
    root = copy_of(finished, tmp_path, "questions", "references")
    process, family = run_until_sampling(root)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; run the same command again to resume" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert list(root.glob("sampling/*.partial"))
