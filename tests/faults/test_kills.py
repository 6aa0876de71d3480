"""SIGKILL at any point gives the same final artifact (promise 4) and the same losses (promise 8). Long form: `make soak`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from storage.store import Store
from tests.support.kill_campaign import CONFIG, campaign, compare, fill_root, only_artifact, start_stage, wait_for_end

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("stage", "kills"),
    [("questions", 3), ("references", 1), ("sampling", 3), ("synthesis", 2), ("training", 2), ("evaluation", 1), ("report", 1)],
)
def test_a_stage_killed_repeatedly_gives_the_undisturbed_artifact(
    stage: str, kills: int, undisturbed: Path, teacher: str, tmp_path: Path
) -> None:
    counts = campaign(stage, kills, random.Random(stage), CONFIG, undisturbed, tmp_path, teacher)
    assert sum(counts.kills.values()) >= kills
    assert counts.finished >= 1


def test_killed_references_resume_from_their_shards(undisturbed: Path, teacher: str, tmp_path: Path) -> None:
    config = fill_root("references", tmp_path / "root", undisturbed, teacher)
    assert wait_for_end(start_stage("references", config, "stages.references - 50 before"), config) != 0
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("root/references/*.partial/items-*.parquet")}
    assert 5 < len(kept) < 10, "the base has answered everything, the teacher something"
    assert wait_for_end(start_stage("references", config), config) == 0
    assert f"40 items, {4 * len(kept)} already done" in config.with_suffix(".log").read_text()
    made = only_artifact(Store(tmp_path / "root"), "references")
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in made.files("items")}.items(), "written again"
    compare("references", Store(undisturbed), Store(tmp_path / "root"))
