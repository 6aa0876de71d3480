"""Disk faults: full, read-only, truncated and damaged files give one clear line, lose no work and allow a resume."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.store import Store
from tests.support.kill_campaign import compare, fill_root, last_message, only_artifact, start_stage, wait_for_end
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A separate file system that is small enough to fill up."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.parametrize(("stage", "room"), [("sampling", 60), pytest.param("training", 2500, marks=pytest.mark.soak)])
def test_a_full_disk_is_reported_and_work_resumes_with_space(
    stage: str, room: int, undisturbed: Path, teacher: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as root:
        config = fill_root(stage, root, undisturbed, teacher)
        config = Path(shutil.move(config, tmp_path / "run.config"))  # its log needs space
        used = sum(path.stat().st_blocks * 512 for path in root.rglob("*")) // 1024
        remount(root, f"size={used + room}k")
        assert wait_for_end(start_stage(stage, config), config) == 1
        assert "no space left; free some, then run again to resume" in last_message(config)
        assert not list(root.rglob("*.tmp"))
        remount(root, "size=64m")
        assert wait_for_end(start_stage(stage, config), config) == 0
        compare(stage, Store(undisturbed), Store(root))


def test_a_read_only_root_is_refused(undisturbed: Path, teacher: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as root:
        config = fill_root("sampling", root, undisturbed, teacher)
        remount(root, "ro")
        answer = subprocess.run(
            [sys.executable, "-m", "stages.sampling", "--config", str(config)],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert answer.returncode == 2
        assert "cannot be written (Read-only file system)" in answer.stderr
        assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("stage", ["sampling", pytest.param("training", marks=pytest.mark.soak)])
def test_a_root_that_turns_read_only_is_named_and_work_resumes(
    stage: str, undisturbed: Path, teacher: str, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as root:
        config = fill_root(stage, root, undisturbed, teacher)
        config = Path(shutil.move(config, tmp_path / "run.config"))  # a file that is open for writing keeps a disk writable
        child = start_stage(stage, config)
        while not list(root.glob(f"{stage}/*.lease/*")):
            assert child.poll() is None
            time.sleep(0.05)
        while subprocess.run(["mount", "-o", "remount,ro", str(root)], capture_output=True, check=False).returncode:
            assert child.poll() is None
        assert wait_for_end(child, config) in (1, 2)
        assert "cannot be written" in last_message(config)
        remount(root, "rw")
        assert wait_for_end(start_stage(stage, config), config) == 0
        compare(stage, Store(undisturbed), Store(root))


def flip(path: Path) -> None:
    """Flips one bit in the text column of a shard, which every stage that reads samples also reads."""
    group = pq.read_metadata(path).row_group(0)
    (texts,) = (group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "text")
    first = texts.dictionary_page_offset or texts.data_page_offset
    content = bytearray(path.read_bytes())
    content[first + texts.total_compressed_size // 2] ^= 16
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_shard_of_a_killed_stage_is_made_again(
    damage: object, undisturbed: Path, teacher: str, tmp_path: Path
) -> None:
    config = fill_root("sampling", tmp_path / "root", undisturbed, teacher)
    for _ in range(8):  # on a busy machine most commit points of a process are lease heartbeats
        wait_for_end(start_stage("sampling", config, "stages.sampling - 25 after"), config)
        shards = sorted((tmp_path / "root" / "sampling").glob("*.partial/samples-*.parquet"))
        if len(shards) > 1:
            break
    assert len(shards) > 1
    damage(shards[0])  # type: ignore[operator]
    assert wait_for_end(start_stage("sampling", config), config) == 0
    assert "its rows will be recomputed" in config.with_suffix(".log").read_text()
    compare("sampling", Store(undisturbed), Store(tmp_path / "root"))


def test_a_damaged_input_is_refused_and_named(undisturbed: Path, teacher: str, tmp_path: Path) -> None:
    config = fill_root("synthesis", tmp_path / "root", undisturbed, teacher)
    shard = only_artifact(Store(tmp_path / "root"), "sampling").files("samples")[3]
    flip(shard)
    assert wait_for_end(start_stage("synthesis", config), config) == 1
    assert f"{shard}: damaged" in last_message(config)
    assert f"remove {shard.parent} and run its stage again" in last_message(config)


def test_one_of_four_processes_writes_and_the_others_exit_with_a_message(
    undisturbed: Path, teacher: str, tmp_path: Path
) -> None:
    config = fill_root("sampling", tmp_path / "root", undisturbed, teacher)
    runners = [
        subprocess.Popen(
            [sys.executable, "-m", "stages.sampling", "--config", str(config)],
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    outputs = [runner.communicate(timeout=120)[0] for runner in runners]
    wrote = [output for output in outputs if "sampling: wrote" in output]
    assert len(wrote) == 1
    for runner, output in zip(runners, outputs, strict=True):
        if output not in wrote:
            assert (runner.returncode, "is writing it; wait for it to end, or stop it" in output) == (2, True) or (
                runner.returncode == 0 and "already exists" in output
            )
    compare("sampling", Store(undisturbed), Store(tmp_path / "root"))
