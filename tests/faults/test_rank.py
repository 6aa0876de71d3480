"""A rank killed for memory: the other ranks end, the error explains it, and training resumes from its checkpoint."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from storage.store import Store
from tests.support.kill_campaign import compare, fill_root, kill_after, last_message, start_stage, wait_for_end

pytestmark = pytest.mark.e2e


def test_a_rank_killed_for_memory_ends_all_ranks_with_an_explanation(undisturbed: Path, teacher: str, tmp_path: Path) -> None:
    config = fill_root("training", tmp_path / "root", undisturbed, teacher)
    guard = start_stage("training", config)
    while not list((tmp_path / "root" / "training").glob("*.scratch/checkpoint.json")):
        assert guard.poll() is None
        time.sleep(0.05)
    family = psutil.Process(guard.pid).children(recursive=True)
    assert kill_after(guard, "stages.training.rank 1", 0.0)
    assert wait_for_end(guard, config) == 1
    assert "signal 9 means that a rank was killed, usually out of memory" in last_message(config)
    assert "run again to resume" in last_message(config)
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert wait_for_end(start_stage("training", config), config) == 0
    assert "already done" in config.with_suffix(".log").read_text()
    compare("training", Store(undisturbed), Store(tmp_path / "root"))
