"""kill -9 anywhere -> the same final artifact (promise 4), and the same losses (promise 8). The long form is `make soak`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.campaign import CONFIG, campaign

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("stage", "kills"), [("questions", 5), ("sampling", 7), ("synthesis", 3), ("training", 3), ("evaluation", 3), ("report", 2)]
)
def test_a_stage_killed_again_and_again_ends_as_if_it_had_not_been(
    stage: str, kills: int, peaceful: Path, teacher: str, tmp_path: Path
) -> None:
    toll = campaign(stage, kills, random.Random(stage), CONFIG, peaceful, tmp_path, teacher)
    assert sum(toll.kills.values()) >= kills
    assert toll.finished >= 1
