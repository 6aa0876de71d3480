"""Small experiment: every arm is trained once per seed, even after a kill, and the page lists all arms."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.end_to_end import command, environment, mind
from tests.support.runs import REPOSITORY

pytestmark = pytest.mark.e2e

SMALL = (
    "questions.train=[{kind: miniature, family: dial, split: train, count: 16}]",
    "questions.evaluation=[{name: dial, group: id, use: dev, source: {kind: miniature, family: dial, split: dev, count: 12}},"
    " {name: lift, group: ood, use: dev, source: {kind: miniature, family: lift, split: dev, count: 12}}]",
    "sampling.engine={kind: transformers, dtype: float32, max_context: 512}",
    "sampling.tries=1",
    "sampling.max_tokens=150",
    "evaluation.max_tokens=80",
    "synthesis.attempts=1",
    "synthesis.min_perspectives=1",
    "training.steps=3",
    "training.questions_per_step=5",
    "training.questions_per_micro_batch=5",
)


def arguments(root: Path) -> list[str]:
    changes = [item for value in (f"root={root}", *SMALL) for item in ("--set", value)]
    return ["bench", "science", "configs/science.yaml", *changes, "--arms", "uniform", "--seeds", "2"]


def trained(root: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in (root / "training").glob("*/manifest.json")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], str]:
    """An experiment killed after its first student and run again: root, students in between and output of the second run."""
    root = tmp_path_factory.mktemp("science")
    with subprocess.Popen(
        command(*arguments(root)), cwd=REPOSITORY, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as first:  # fmt: skip
        deadline = time.monotonic() + 300
        while not trained(root) and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(first.pid, signal.SIGKILL)
    between = trained(root)
    answer = mind(*arguments(root))
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-4000:]
    return root, between, answer.stdout


def test_after_a_kill_every_student_is_trained_once(done: tuple[Path, dict[str, int], str]) -> None:
    root, between, _ = done
    assert between
    assert len(trained(root)) == 4
    assert {name: trained(root)[name] for name in between} == between
    assert len(list((root / "synthesis").glob("*/manifest.json"))) == 2  # one per seed, shared by its arms


def test_the_table_and_the_page_have_every_arm(done: tuple[Path, dict[str, int], str]) -> None:
    root, _, said = done
    folder = root / "science" / "science-dev"
    found = json.loads((folder / "arms.json").read_text())
    assert {row["arm"]: row["seeds"] for row in found["arms"]} == {"mind": [0, 1], "uniform": [0, 1]}
    items = pq.read_table(folder / "items.parquet")
    assert items.num_rows == 2 * 2 * 24
    for row in found["arms"]:
        assert row["arm"] in said
    assert str(folder / "science.html") in said


def test_a_repeated_experiment_trains_nothing(done: tuple[Path, dict[str, int], str]) -> None:
    root, _, _ = done
    before = trained(root)
    assert mind(*arguments(root)).returncode == 0
    assert trained(root) == before


def test_arms_of_equal_compute_take_other_steps(done: tuple[Path, dict[str, int], str]) -> None:
    root, _, _ = done
    answer = mind(*arguments(root), "--match", "compute")
    assert answer.returncode == 0, answer.stderr[-4000:]
    series = [json.loads((folder / "arms.json").read_text())["arms"] for folder in sorted((root / "science").iterdir())]
    (_, before), (mind_, uniform) = (
        [next(row for row in rows if row["arm"] == name) for name in ("mind", "uniform")] for rows in series
    )
    assert before["steps"] == mind_["steps"] == 3
    assert before["compute"] != mind_["compute"]
    of_step = uniform["compute_training"] / uniform["steps"]
    assert uniform["compute"] == pytest.approx(mind_["compute"], abs=0.75 * of_step)  # steps are whole, and differ in length
    assert mind_["compute_sampling"] > 0


def test_equal_compute_needs_the_series_of_equal_steps(tmp_path: Path) -> None:
    answer = mind(*arguments(tmp_path), "--match", "compute")
    assert answer.returncode == 2
    assert "no finished run of mind, uniform with these settings; run them without --match first" in answer.stderr


def test_costs_of_other_settings_are_not_taken(done: tuple[Path, dict[str, int], str]) -> None:
    root, _, _ = done
    answer = mind(*arguments(root), "--set", "training.steps=4", "--match", "compute")
    assert answer.returncode == 2
    assert "no finished run of mind, uniform with these settings" in answer.stderr


def test_an_unknown_arm_is_refused_in_one_line(done: tuple[Path, dict[str, int], str]) -> None:
    root, _, _ = done
    answer = mind(*arguments(root), "--arms", "minds")
    assert answer.returncode == 2
    assert answer.stderr.startswith("mind: arm 'minds': unknown; use one of mind, ")
    assert answer.stderr.count("\n") == 1
